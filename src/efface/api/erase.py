"""`efface.erase`: a model and concepts to an eraser."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.arguments import model_from
from efface.api.erasers import eraser_list, load_eraser
from efface.api.optional import none_is_not_given
from efface.eraser.base_check import check_base
from efface.eraser.certificate import certify as with_certificate
from efface.eraser.certificate import certify_if_stored
from efface.eraser.continual import solve_after
from efface.eraser.eraser import Eraser
from efface.eraser.recommended import with_recommended
from efface.eraser.solve import solve_request
from efface.eraser.unknown_words import warn_of_words
from efface.errors import BadInput, BadRequest
from efface.methods import METHODS
from efface.models.architecture import check_architecture
from efface.progress import RunContext
from efface.request.preserve_file import read_preserved
from efface.request.record import Request
from efface.settings import Scalar

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.edits.kinds import Edit
    from efface.judges import Judge
    from efface.methods.base import CopyDetector, Latents, Measure, Pictures, Recognised, Tool
    from efface.models import Model

_LOGGER = logging.getLogger(__name__)
_CAPITALISED = re.compile(r"[A-Z][a-z]+")
_JOINED = re.compile(r"(?:[A-Z][a-z]{2,}){2,}")
#: Judges images for debiasing where no judge is named: that of UCE's script.
_CLIP = "clip:openai/clip-vit-base-patch32"


@none_is_not_given
def erase(
    model: ModelLike,
    concepts: Request | str | Sequence[str],
    to: str | Sequence[str] | None = (),
    *,
    kind: str = "object",
    preserve: Sequence[str] = (),
    preserve_file: Path | str | None = None,
    method: str = "uce",
    goal: str = "erase",
    clip_skip: int | None = None,
    after: EraserLike | Sequence[EraserLike] = (),
    certify: bool = False,
    model_config: Path | str | None = None,
    judge: Judge | str | None = None,
    trust_torchscript: bool = False,
    seed: int | None = None,
    device: DeviceLike = "auto",
    context: RunContext | None = None,
    **options: Scalar,
) -> Eraser:
    """Erase concepts: solve for an eraser. The model stays unchanged until the eraser is attached or baked.

    Example:
        >>> eraser = efface.erase("emoji", "cat", to="dog", preserve=["tiger"])
        >>> eraser.save("cat.safetensors")

    Args:
        model: A model, a diffusers pipeline, or the name, folder or file of a model.
        concepts: What to erase: one concept or several in words; or a request, to which `preserve`, `preserve_file`,
            `seed` and options are added.
        to: The guide, or one guide for each concept; without one, the guide that the model recommends for the method,
            or else the method's default for the kind. For the goal "debias", the attributes that images of every
            concept should show.
        kind: Kind of the concepts: object, style, memorised or unsafe.
        preserve: Prompts to preserve.
        preserve_file: A file of more prompts to preserve: one per line, or a CSV. They replace the prompts that a
            method preserves by default.
        method: The name of the method (`efface methods`).
        goal: Goal of the request: erase or debias.
        clip_skip: How many of the text encoder's last layers the pipeline skips.
        after: Earlier erasers, or their files. Their concepts stay erased, the new ones are solved on the model that
            they have edited, and the result contains all (`efface.eraser.continual`).
        certify: Compute the certificate, a bound on how closely any embedding, or any text, can restore each concept
            (`efface.eraser.certificate`). This may read the denoiser's text-reading weights. Methods that store
            their Gram matrix have a certificate without `certify` too. Only erasers that edit the text alone have one.
        model_config: The YAML file of a Stable Diffusion checkpoint's architecture, to check the model with.
        judge: The judge, or its name, for methods that look at images: to debias, or to find copies of a memorised
            picture.
        trust_torchscript: Whether a judge's TorchScript file, which is a program, may be run.
        seed: The seed of a method that draws random numbers; other methods ignore it.
        device: The device to open a model's name on, or an `efface.Runtime`.
        context: Progress callback, and for methods that train the folder in which an interrupted training resumes.
        **options: The method's own settings; for the goal "debias" also `shares`. `preset="published"` applies the
            method's published defaults where the model recommends others.

    Raises:
        BadInput: The request cannot be carried out; the message says what to change.
    """
    listed = read_preserved(Path(preserve_file)) if preserve_file else []
    preserved = list(dict.fromkeys([*preserve, *listed])) if listed else list(preserve)
    if isinstance(concepts, Request):
        request = _extended(concepts, preserved, options) if preserved or options else concepts
    else:
        request = Request.make(
            concepts, to, kind=kind, preserve=preserved, method=method, goal=goal, options=options, clip_skip=clip_skip
        )
    if certify and request.goal != "erase":
        raise BadRequest("A certificate bounds how far an erased concept comes back; leave --certify out to debias.")
    request = _with_settings(request, bool(listed), seed)
    if judge is not None:
        _check_judge_is_used(request, judge)
    opened = model_from(model, device)
    context = replace(context or RunContext(), draw=partial(_draw, opened))
    earlier = [load_eraser(one, opened) for one in eraser_list(after)]
    request = _in_words(opened, request)
    warn_of_words(opened, request)
    request, sources = with_recommended(opened, request)
    if model_config is not None:
        check_architecture(opened, Path(model_config))
    tools: dict[Tool, Callable[[], Any]] = {
        "copies": lambda: _copy_detector(judge, opened, trust_torchscript),
        "latents": lambda: _latents(opened),
        "measure": lambda: _measure(judge, opened, request, trust_torchscript),
        "pictures": lambda: _pictures(opened, context),
        "progress": lambda: context.progress,
        "context": lambda: context,
        "read_eraser": lambda: partial(_edits_of_file, opened),
        "recognised": lambda: _recognised(judge, opened, request, trust_torchscript),
    }
    if earlier:
        eraser = Eraser.of(solve_after(opened, request, earlier, tools, sources.to_json()))
    else:
        eraser = Eraser.of(solve_request(opened, request, tools, sources.to_json()))
    return with_certificate(opened, eraser) if certify else certify_if_stored(opened, eraser)


def _extended(request: Request, preserve: Sequence[str], options: Mapping[str, Scalar]) -> Request:
    """The request with more prompts to preserve and more settings."""
    merged = {
        "preserve": tuple(dict.fromkeys([*request.preserve, *preserve])),
        "options": {**request.options, **options},
    }
    return Request.model_validate({**request.model_dump(), **merged})


def _in_words(model: Model, request: Request) -> Request:
    """The request with names such as BlueJay, as the U&ME challenge writes them, in words.

    A name that is one token of the model's tokenizer, such as PlayStation, remains.
    """

    def in_words(name: str | None) -> str | None:
        if name is None or not _JOINED.fullmatch(name) or len(model.tokenizer.tokenize(name)) == 1:
            return name
        words = " ".join(_CAPITALISED.findall(name))
        _LOGGER.info("'%s' is read as '%s'.", name, words)
        return words

    update = [{"name": in_words(concept.name), "guide": in_words(concept.guide)} for concept in request.concepts]
    concepts = tuple(concept.model_copy(update=names) for concept, names in zip(request.concepts, update, strict=True))
    return request.model_copy(update={"concepts": concepts})


def _with_settings(request: Request, has_preserve_file: bool, seed: int | None) -> Request:
    """The request with two settings, where the method has them: a seed, and no prompts that it preserves by default."""
    known = METHODS.get(request.method).config.model_fields
    options = dict(request.options)
    if has_preserve_file and "everyday" in known:
        options.setdefault("everyday", False)
    if seed is not None and "seed" in known:
        options["seed"] = seed
    return request.model_copy(update={"options": options})


def _check_judge_is_used(request: Request, judge: Judge | str) -> None:
    """Refuse a judge that the request does not use, since the user expects verdicts from it."""
    needs = METHODS.get(request.method).needs
    is_memorised = any(concept.kind == "memorised" for concept in request.concepts)
    finds_copies = is_memorised and "copies" in needs
    measures = "recognised" in needs and request.options.get("skip_if_forgotten")
    if request.goal != "debias" and not finds_copies and not measures:
        name = judge if isinstance(judge, str) else judge.name
        raise BadInput(
            f"--judge {name} is for --goal debias, for ablate to find copies of a memorised picture, and for rece with "
            "skip_if_forgotten=true; leave it out, and judge with efface evaluate."
        )


def _measure(judge: Judge | str | None, model: Model, request: Request, trust_torchscript: bool) -> Measure | None:
    """The shares of attributes among images, which debiasing needs; None for the goal "erase"."""
    if request.goal != "debias":
        return None
    attributes = dict.fromkeys(name for concept in request.concepts for name in concept.attributes)

    @cache
    def measure_of_judge() -> Measure:
        # The judge is opened for the first image, after the request was checked.
        from efface.tools import measure_by

        return measure_by(_opened_judge(judge, model, tuple(attributes), trust_torchscript, "Debiasing"), model)

    def measure(*arguments: Any, **options: Any) -> Sequence[float]:
        return measure_of_judge()(*arguments, **options)

    return measure


def _recognised(judge: Judge | str | None, model: Model, request: Request, trust_torchscript: bool) -> Recognised:
    """The share of images that show a concept, by the judge or the model's default judge."""

    def recognised(*arguments: Any, **options: Any) -> float:
        from efface.tools import recognised_by

        needed = "skip_if_forgotten"
        return recognised_by(_opened_judge(judge, model, request.names, trust_torchscript, needed), model)(
            *arguments, **options
        )

    return recognised


def _opened_judge(
    judge: Judge | str | None, model: Model, questions: Sequence[str], trust_torchscript: bool, needed: str
) -> Judge:
    """The judge; without one, the model's default judge, or CLIP. `needed` names what needs it."""
    from efface.judges import open_judge

    if judge is not None and not isinstance(judge, str):
        return judge
    name = judge or model.default_judge or _CLIP
    try:
        return open_judge(name, tuple(questions), str(model.device), trust_torchscript)
    except BadInput as error:
        if judge is not None:
            raise
        raise BadRequest(f"{needed} needs a judge; give one with --judge. The default failed: {error}") from error


def _edits_of_file(model: Model, path: str) -> tuple[Edit, ...]:
    """The edits of an eraser's file, or of a file that `efface import` reads."""
    eraser = load_eraser(path, model)
    check_base(eraser, model)
    return eraser.edits


def _copy_detector(judge: Judge | str | None, model: Model, trust_torchscript: bool) -> CopyDetector | None:
    """The judge of copies, or a detector by the model's own CLIP; None without either."""
    if judge is not None:
        from efface.judges import open_judge
        from efface.tools import copies_by

        return copies_by(
            open_judge(judge, (), str(model.device), trust_torchscript) if isinstance(judge, str) else judge
        )
    clip = model.clip
    if clip is None:
        return None

    def copies(pictures: Any, original: Any) -> Sequence[bool]:
        from efface.models.clip import open_clip
        from efface.tools import copies_by_clip

        return copies_by_clip(open_clip(clip, model.device))(pictures, original)

    return copies


def _draw(model: Model, prompt: str, n: int, edits: Sequence[Edit], folder: Path) -> Sequence[Any]:
    from efface.generation.training_samples import draw_samples

    return draw_samples(model, prompt, n, edits, folder)


def _latents(model: Model) -> Latents:
    from efface.tools import latents_of

    return latents_of(model)


def _pictures(model: Model, context: RunContext) -> Pictures:
    from efface.tools import CachedPictures

    return CachedPictures(model, context.progress)
