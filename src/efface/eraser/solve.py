"""The first verb: a model and a request make an eraser.

The module is not called `erase`, since importing it would then hide the function `efface.erase`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from efface.eraser.base import with_parameters
from efface.eraser.streams import joined
from efface.errors import BadRequest
from efface.methods import METHODS
from efface.models import Model, open_model
from efface.models.model import TEXT
from efface.progress import RunContext
from efface.request.record import Request
from efface.settings import Scalar

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.eraser import Eraser
    from efface.judges import Judge
    from efface.methods.base import CopyDetector, Latents, Measure, Pictures, Tool


def erase(
    model: Model | DiffusionPipeline | str,
    concepts: Request | str | Sequence[str],
    to: str | Sequence[str] = (),
    *,
    kind: str = "object",
    preserve: Sequence[str] = (),
    method: str = "uce",
    goal: str = "erase",
    clip_skip: int | None = None,
    certify: bool = False,
    judge: Judge | None = None,
    work: RunContext | None = None,
    **options: Scalar,
) -> Eraser:
    """Make an eraser; the model stays as it is until the eraser is attached or baked.

    Args:
        model: a model, a diffusers pipeline, or the name or folder of one.
        concepts: what to erase: a request, or a concept or several in words. With a request, the rest is in it.
        to: the guide, or one for each concept; nothing takes the method's default for the kind. To debias, the
            attributes that every concept's images shall show.
        kind: object, style, memorised or unsafe.
        preserve: prompts to keep.
        method: name of the method.
        goal: erase or debias.
        clip_skip: how many of the text encoder's last layers the pipeline skips.
        certify: say in the eraser how far its concepts can be brought back (`efface.eraser.certificate`), though that
            may take reading the denoiser's text-reading weights; where they were summed before, it is said unasked. An
            eraser that does not edit the text alone has no certificate.
        judge: who says what images show, or which are copies, for methods that look at images
            (`efface.judges.open_judge`).
        work: whom to tell how far long work is, and for methods that train a folder from which an interrupted training
            is taken up again.
        **options: the method's own settings; to debias, also `shares`.

    Raises:
        BadInput: the request cannot be carried out; the message says what to change.
    """
    if not isinstance(concepts, Request):
        concepts = Request.make(
            concepts, to, kind=kind, preserve=preserve, method=method, goal=goal, options=options, clip_skip=clip_skip
        )
    if certify and concepts.goal != "erase":
        raise BadRequest("A certificate says how far an erased concept comes back; leave --certify out to debias.")
    chosen = METHODS.get(concepts.method)
    settings = chosen.config.model_validate(concepts.options)
    opened = model if isinstance(model, Model) else open_model(model)
    work = work or RunContext()
    tools: dict[Tool, Callable[[], Any]] = {
        "copies": lambda: _copies_of(judge, opened),
        "latents": lambda: _latents_of(opened),
        "measure": lambda: _measure_of(judge, opened),
        "pictures": lambda: _pictures_of(opened, work),
        "progress": lambda: work.progress,
        "work": lambda: work,
    }
    given = {name: tools[name]() for name in chosen.needs}
    # A guard acts on the denoiser as a whole, training on its weights, and debiasing is steered by images; any other
    # edit is of one text stream.
    whole = chosen.edit == "guard" or chosen.trained or concepts.goal == "debias" or not concepts.pooled
    streams = [TEXT] if whole else list(opened.streams)
    eraser = joined({stream: chosen.erase(opened.reading(stream), concepts, settings, **given) for stream in streams})
    eraser = with_parameters(eraser, opened)
    from efface.eraser.certificate import certify as certified
    from efface.eraser.certificate import certify_if_quick

    return certified(opened, eraser) if certify else certify_if_quick(opened, eraser)


def _latents_of(model: Model) -> Latents:
    from efface.tools import latents_of

    return latents_of(model)


def _measure_of(judge: Judge | None, model: Model) -> Measure | None:
    if judge is None:
        return None
    from efface.tools import measure_by

    return measure_by(judge, model)


def _pictures_of(model: Model, work: RunContext) -> Pictures:
    from efface.tools import CachedPictures

    return CachedPictures(model, work.progress)


def _copies_of(judge: Judge | None, model: Model) -> CopyDetector | None:
    if judge is not None:
        from efface.tools import copies_by

        return copies_by(judge)
    if model.name != "emoji":
        return None

    def copies(pictures: Any, original: Any) -> Sequence[bool]:
        from efface.tools import copies_by_embedded_clip

        return copies_by_embedded_clip(model.device)(pictures, original)

    return copies
