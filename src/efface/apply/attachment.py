"""Putting an eraser on a running model and taking it off: a hook in front of the denoiser, no weight changed.

The hook edits what the denoiser is given as text (`encoder_hidden_states`), whatever made it: prompts, embeddings given
by hand, negative prompts, and both branches of guidance. Weight edits, which no hook can stand for, are written and
later restored. Guards bring hooks of their own (see `efface.apply.guard`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from efface.apply.bake import Baked, write_weights
from efface.apply.guard import GUARDS, Guard
from efface.apply.text_hook import TextHook, forget_text
from efface.edits.kinds import TextEdit, ValueGuard, WeightEdit
from efface.eraser.base import check_base, check_bases
from efface.errors import BadInput
from efface.models import Model, open_model
from efface.models.active import Change, record
from efface.models.model import POOLED, TEXT
from efface.models.modules import unfuse

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.eraser import Eraser


class Attachment:
    """Erasers on a model. Leave the context, or call `detach`, and the model is as it was.

    Args:
        erasers: one for all prompts, or one (or None) for each prompt of a batch, which then edit text alone.
        model: what they are put on.
        strength: how far they go.
        images_per_prompt: how many images of each prompt a batch has; None finds it out from the batch.
    """

    def __init__(
        self, erasers: Sequence[Eraser | None], model: Model, strength: float, images_per_prompt: int | None = None
    ) -> None:
        self._model = model
        self._denoiser: nn.Module = model.denoiser
        edits = [eraser.edits if eraser else () for eraser in erasers]
        texts = [[edit for edit in some if isinstance(edit, TextEdit)] for some in edits]
        others = [edit for some in edits for edit in some if not isinstance(edit, TextEdit)]
        assert len(erasers) == 1 or not others
        self._weights = [edit for edit in others if isinstance(edit, WeightEdit)]
        self._hook: TextHook | None = None
        self._guards: list[Guard] = []
        self._written = Baked()
        self._change = Change(tuple(erasers), strength, "attached")
        self._strike = record(self._denoiser, self._change)
        try:
            for edit in others:
                if isinstance(edit, ValueGuard):
                    self._guards.append(GUARDS.get(edit.guard)(edit, self._denoiser))
            # Hooks run in the order they were made in: guards read the text as it comes, and what they add is edited.
            if any(texts):
                told = (images_per_prompt, lambda: model.guided)
                self._hook = TextHook(self._denoiser, model.streams, texts, *told)
            if self._weights:
                unfuse(self._denoiser)
            self.set(strength)
        except BaseException:
            self.detach()
            raise

    def set(self, strength: float) -> None:
        """Go `strength` times as far as was solved for: 0 changes nothing, 1 is the whole edit."""
        self.strength = self._change.strength = strength
        if self._hook:
            self._hook.set(strength)
        for guard in self._guards:
            guard.set(strength)
        self._written.undo()
        write_weights(self._written, self._model, self._weights, strength)
        forget_text(self._denoiser)

    def detach(self) -> None:
        """Take the erasers off; a second call does nothing."""
        if self._hook:
            self._hook.remove()
        for guard in self._guards:
            guard.detach()
        self._written.undo()
        self._strike()
        forget_text(self._denoiser)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(eraser: Eraser, target: Model | DiffusionPipeline, strength: float = 1.0, force: bool = False) -> Attachment:
    """Put `eraser` on `target`, after checking that it fits."""
    model = target if isinstance(target, Model) else open_model(target)
    check_base(eraser, model, force)
    _warn_of_what_is_not_covered([eraser], model, target, stacklevel=4)
    return Attachment([eraser], model, strength)


def attach_each(
    erasers: Sequence[Eraser | None],
    target: Model | DiffusionPipeline,
    strength: float = 1.0,
    force: bool = False,
    images_per_prompt: int | None = None,
) -> Attachment:
    """Make each prompt of a batch forget its own: for servers that draw several requests at once.

        with efface.attach_each([no_cats, None, no_dogs], pipe):
            pipe(["a cat", "a cat", "a dog"], num_images_per_prompt=2)

    Each prompt's images are as if its eraser alone were attached; both branches of guidance read the prompt's edit.

    Args:
        erasers: one for each prompt of the batches to come, in their order; None leaves a prompt alone.
        target: a model, or a diffusers pipeline.
        strength: how far to go, as for `Eraser.attach`.
        force: attach although the text encoder is not the erasers' base's.
        images_per_prompt: `num_images_per_prompt` of the calls to come. None finds it out from each batch, and refuses
            those few that could be meant either way.

    Raises:
        WrongBase: the target's text encoder does not embed the probes as an eraser's base did.
        BadInput: an eraser changes weights or is a guard, which a batch's rows share. While it runs: the batch is not
            one of that many prompts.
    """
    if not erasers:
        raise BadInput("There is no eraser to attach; give one, or None, for each prompt.")
    model = target if isinstance(target, Model) else open_model(target)
    distinct = list(dict.fromkeys(eraser for eraser in erasers if eraser is not None))
    for eraser in distinct:
        if eraser.kind_of_edit != "text":
            raise BadInput(
                f"An eraser made by {eraser.method} acts on all prompts of a batch at once; attach it alone, or erase "
                "with a method that edits the text."
            )
    check_bases(distinct, model, force)
    _warn_of_what_is_not_covered(distinct, model, target, stacklevel=3)
    return Attachment(erasers, model, strength, images_per_prompt)


def _warn_of_what_is_not_covered(erasers: Sequence[Eraser], model: Model, target: Any, stacklevel: int) -> None:
    missed: list[str] = []
    if getattr(model.denoiser, "encoder_hid_proj", None) is not None:
        missed.append("An IP-Adapter is loaded: the eraser edits the text, not the tokens of its image.")
    for eraser in erasers:
        for way in _ways_missed(eraser, model):
            missed.append(f"{model.name} reads the text by {way} too, which the eraser does not edit.")
    if getattr(target, "controlnet", None) is not None:
        missed.append("The ControlNet reads the text as it is: the eraser edits only the denoiser's.")
    for words in dict.fromkeys(missed):
        warnings.warn(words, stacklevel=stacklevel)


def _ways_missed(eraser: Eraser, model: Model) -> list[str]:
    """By what the model reads the text besides what the eraser acts on; none for changes of weights alone."""
    edited = {edit.stream for edit in eraser.edits if isinstance(edit, TextEdit)}
    guards = [edit for edit in eraser.edits if isinstance(edit, ValueGuard)]
    if not edited and all(POOLED in guard.values for guard in guards):
        return []
    edited |= {TEXT} if guards else set()
    return [*(way for stream, way in model.streams.items() if stream not in edited), *model.unedited]
