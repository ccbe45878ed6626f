"""Edits on a running model: text edits by a hook in front of the denoiser, weight edits written and later restored.

The hook edits the text that the denoiser receives (`encoder_hidden_states`), whatever produced it: prompts, embeddings
passed directly, negative prompts, and both branches of guidance. Where a norm comes first, it is in front of the map
that reads the norm's output (`Model.text_map`). Guards add hooks of their own (`efface.apply.guard`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from efface.apply.bake import Baked, write_weights
from efface.apply.guard import GUARDS, Guard, check_guardable
from efface.apply.text_hook import TextHook, forget_text
from efface.edits.kinds import Edit, GuardEdit, TextEdit, WeightEdit, hash_of
from efface.errors import BadInput
from efface.models.active import Active, register
from efface.models.model import TEXT
from efface.models.modules import is_compiled_at, plain, unfuse

if TYPE_CHECKING:
    from torch import nn

    from efface.models.model import Model


class Attachment:
    """Edits on a model. Leave the context, or call `detach`, to restore the model bit for bit.

    Args:
        edits: One sequence of edits for all prompts; or one (or None) for each prompt of a batch, of text edits only.
        model: The model that they act on.
        strength: 0 changes nothing, 1 applies the edits as they were solved.
        images_per_prompt: The number of images of each prompt in a batch; None derives it from the batch.
    """

    def __init__(
        self,
        edits: Sequence[Sequence[Edit] | None],
        model: Model,
        strength: float = 1.0,
        images_per_prompt: int | None = None,
    ) -> None:
        self._model = model
        self._denoiser: nn.Module = model.denoiser
        text_edits = [[edit for edit in some or () if isinstance(edit, TextEdit)] for some in edits]
        others = [edit for some in edits for edit in some or () if not isinstance(edit, TextEdit)]
        assert len(edits) == 1 or not others
        self._weight_edits = [edit for edit in others if isinstance(edit, WeightEdit)]
        self._hook: TextHook | None = None
        self._guards: list[Guard] = []
        self._written = Baked()  # the weights from before the edits, which `detach` writes again
        self._active = Active(lambda: _identity(edits), strength, "attached")
        self._unregister = register(self._denoiser, self._active)
        try:
            for edit in others:
                if isinstance(edit, GuardEdit):
                    check_guardable(model)
                    self._guards.append(GUARDS.get(edit.guard)(edit, self._denoiser))
            # Hooks run in the order in which they were added: guards read the unedited text, and what they add to the
            # batch is edited too.
            if any(text_edits):
                guided = lambda: model.guided  # noqa: E731 - read when a batch arrives, not now
                place, streams = _place_of_text(model)
                self._hook = TextHook(place, streams, text_edits, images_per_prompt, guided)
            if self._weight_edits:
                unfuse(self._denoiser)
            self.set(strength)
        except BaseException:
            self.detach(force=True)
            raise

    def set(self, strength: float) -> None:
        """Change the strength: 0 changes nothing, 1 applies the edits as they were solved.

        Raises:
            BadInput: The strength is not finite, or other code has changed the weights that the edits change; nothing
                is changed.
        """
        check_strength(strength)
        self._written.check()
        self.strength = self._active.strength = strength
        if self._hook:
            self._hook.set(strength)
        for guard in self._guards:
            guard.set(strength)
        self._written.undo()
        if strength:  # else nothing is written that later edits of other erasers would build on
            write_weights(self._written, self._model, self._weight_edits, strength)
        forget_text(self._denoiser)

    def detach(self, force: bool = False) -> None:
        """Restore the model; a second call does nothing.

        Args:
            force: Discard changes that other code has made to the edited weights since.

        Raises:
            BadInput: Other code has changed the edited weights, as `fuse_lora` does; nothing is detached.
        """
        if not force:
            self._written.check()
        if self._hook:
            self._hook.remove()
        for guard in self._guards:
            guard.detach()
        self._written.undo(force=True)
        self._unregister()
        forget_text(self._denoiser)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def _place_of_text(model: Model) -> tuple[nn.Module, Mapping[str, str]]:
    """The module whose input is the text, and the names of its arguments for each stream.

    Raises:
        BadInput: The module runs in a compiled graph, which does not see hooks.
    """
    denoiser = model.denoiser
    if model.text_map is None:
        return denoiser, model.streams
    if is_compiled_at(denoiser, model.text_map):
        raise BadInput(
            f"The text of {model.name} is edited inside its denoiser, which is compiled as a whole; compile its blocks "
            "instead (compile_repeated_blocks), or bake the eraser."
        )
    reader = plain(denoiser).get_submodule(model.text_map)
    # The name of its first argument is another one in layers that quantise weights or hold a LoRA.
    return reader, {TEXT: next(iter(inspect.signature(reader.forward).parameters))}


def check_strength(strength: float) -> None:
    """Check the strength of an eraser.

    Raises:
        BadInput: It is not finite.
    """
    if not math.isfinite(strength):
        raise BadInput(f"--strength {strength:g} is no strength; give a number, such as 0.5, 2 or -1.")


def _identity(edits: Sequence[Sequence[Edit] | None]) -> str:
    return " ".join("-" if some is None else hash_of(some) for some in edits)
