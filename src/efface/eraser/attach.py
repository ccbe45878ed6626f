"""Erasers on a model: the check that they fit, the warning of what they do not cover, and the attachment."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.apply.attachment import Attachment
from efface.apply.bake import Baked, bake_edits
from efface.edits.kinds import GuardEdit, TextEdit
from efface.eraser.base_check import check_base, check_erasers_fit
from efface.errors import BadInput
from efface.models.model import POOLED, TEXT
from efface.models.open import open_model

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.record import EraserRecord
    from efface.models.model import Model


def attach(
    eraser: EraserRecord, target: Model | DiffusionPipeline, strength: float = 1.0, force: bool = False
) -> Attachment:
    """Attach an eraser to a model or pipeline (see `Eraser.attach`).

    Args:
        eraser: The eraser.
        target: The model or pipeline.
        strength: 0 changes nothing, 1 applies the edits as they were solved.
        force: Attach although the text encoder or a weight is another one.

    Raises:
        WrongBase: The target is not the eraser's base.
    """
    model = open_model(target)
    check_base(eraser, model, force)
    _warn_of_uncovered_inputs([eraser], model, target, stacklevel=4)
    return Attachment([eraser.edits], model, strength)


def attach_each(
    erasers: Sequence[EraserRecord | None],
    target: Model | DiffusionPipeline,
    strength: float = 1.0,
    force: bool = False,
    images_per_prompt: int | None = None,
) -> Attachment:
    """Attach one eraser per prompt of a batch, for servers that generate several requests at once.

        with efface.attach_each([no_cats, None, no_dogs], pipe):
            pipe(["a cat", "a cat", "a dog"], num_images_per_prompt=2)

    Each prompt's images are as if its eraser alone were attached; both branches of guidance read the prompt's edit.

    Args:
        erasers: One for each prompt of the following batches, in their order; None changes nothing for a prompt.
        target: A model, or a diffusers pipeline.
        strength: As for `Eraser.attach`.
        force: Attach although the text encoder is not the one of the erasers' base.
        images_per_prompt: `num_images_per_prompt` of the following calls. None derives it from each batch, and rejects
            the few batches that are ambiguous.

    Raises:
        WrongBase: The target's text encoder does not embed the probes as an eraser's base did.
        BadInput: There is no eraser; or an eraser changes weights or is a guard, which all rows of a batch share. The
            denoiser's call raises it too, if the batch does not consist of that many prompts.
    """
    if not erasers:
        raise BadInput("There is no eraser to attach; give one, or None, for each prompt.")
    model = open_model(target)
    distinct = list(dict.fromkeys(eraser for eraser in erasers if eraser is not None))
    for eraser in distinct:
        if eraser.kind_of_edit != "text":
            raise BadInput(
                f"An eraser made by {eraser.method} acts on all prompts of a batch at once; attach it alone, or erase "
                "with a method that edits the text."
            )
    check_erasers_fit(distinct, model, force)
    _warn_of_uncovered_inputs(distinct, model, target, stacklevel=3)
    edits = [None if eraser is None else eraser.edits for eraser in erasers]
    return Attachment(edits, model, strength, images_per_prompt)


def bake(eraser: EraserRecord, target: Model | DiffusionPipeline, force: bool = False) -> Baked:
    """Write an eraser into the weights of a model or pipeline (see `Eraser.bake`).

    Args:
        eraser: The eraser.
        target: The model or pipeline.
        force: Bake although the text encoder or a weight is another one.

    Raises:
        WrongBase: The target is not the eraser's base.
        BadInput: The target has a LoRA loaded, or the eraser acts only while the model runs.
    """
    if eraser.kind_of_edit == "guard":
        raise BadInput(f"{eraser.method} acts while the model runs and is in no weight; attach the eraser instead.")
    model = open_model(target)
    check_base(eraser, model, force)
    return bake_edits(eraser.edits, model)


def _warn_of_uncovered_inputs(erasers: Sequence[EraserRecord], model: Model, target: Any, stacklevel: int) -> None:
    messages: list[str] = []
    if getattr(model.denoiser, "encoder_hid_proj", None) is not None:
        messages.append("An IP-Adapter is loaded: the eraser edits the text, not the tokens of its image.")
    for eraser in erasers:
        for argument in _uncovered_arguments(eraser, model):
            messages.append(f"{model.name} reads the text by {argument} too, which the eraser does not edit.")
    if getattr(target, "controlnet", None) is not None:
        messages.append("The ControlNet reads the text as it is: the eraser edits only the denoiser's.")
    for message in dict.fromkeys(messages):
        warnings.warn(message, stacklevel=stacklevel)


def _uncovered_arguments(eraser: EraserRecord, model: Model) -> list[str]:
    """The denoiser's arguments that carry text and are not edited; empty for weight edits alone."""
    edited = {edit.stream for edit in eraser.edits if isinstance(edit, TextEdit)}
    guards = [edit for edit in eraser.edits if isinstance(edit, GuardEdit)]
    if not edited and all(POOLED in guard.values for guard in guards):
        return []
    edited |= {TEXT} if guards else set()
    return [*(argument for stream, argument in model.streams.items() if stream not in edited), *model.unedited]
