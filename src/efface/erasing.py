"""The first verb: a model and a request make an eraser.

The module is not called `erase`, since importing it would then hide the function `efface.erase`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efface.base_check import with_parameters
from efface.methods import METHODS
from efface.models import Model, open_model
from efface.request import Request
from efface.settings import Scalar
from efface.training.work import Work

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser import Eraser


def erase(
    model: Model | DiffusionPipeline | str,
    concepts: Request | str | Sequence[str],
    to: str | Sequence[str] = (),
    *,
    kind: str = "object",
    preserve: Sequence[str] = (),
    method: str = "uce",
    clip_skip: int | None = None,
    certify: bool = False,
    work: Work | None = None,
    **options: Scalar,
) -> Eraser:
    """Make an eraser; the model stays as it is until the eraser is attached or baked.

    Args:
        model: a model, a diffusers pipeline, or the name or folder of one.
        concepts: what to erase: a request, or a concept or several in words. With a request, the rest is in it.
        to: the guide, or one for each concept; nothing takes the method's default for the kind.
        kind: object, style, memorised or unsafe.
        preserve: prompts to keep.
        method: name of the method.
        clip_skip: how many of the text encoder's last layers the pipeline skips.
        certify: say in the eraser how far its concepts can be brought back (`efface.certificate`); reads the
            denoiser's text-reading weights. An eraser that does not edit the text alone has no certificate.
        work: for methods that train: a folder from which an interrupted training is taken up again, and whom to tell.
        **options: the method's own settings.

    Raises:
        BadInput: the request cannot be carried out; the message says what to change.
    """
    if not isinstance(concepts, Request):
        concepts = Request.make(
            concepts, to, kind=kind, preserve=preserve, method=method, options=options, clip_skip=clip_skip
        )
    chosen = METHODS.get(concepts.method)
    settings = chosen.config.model_validate(concepts.options)
    opened = model if isinstance(model, Model) else open_model(model)
    surroundings = (work or Work(),) if chosen.trained else ()
    eraser = with_parameters(chosen.erase(opened, concepts, settings, *surroundings), opened)
    if certify and eraser.certificate is None:
        from efface.certificate import certify as certified

        return certified(opened, eraser)
    return eraser
