"""`efface.compare`: distances and scores of two existing sets of images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.images import images_from
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.errors import BadInput, NoInterval
from efface.generation import Image
from efface.image_files import Pixels
from efface.metrics.base import Measured
from efface.metrics.bootstrap import by_prompt, mean_with_interval
from efface.metrics.clip_score import PLAIN, clip_scores
from efface.metrics.cmmd import cmmd
from efface.metrics.features import extract, open_extractor
from efface.metrics.fid import fid
from efface.metrics.kid import kid
from efface.metrics.lpips import Lpips
from efface.metrics.lpips import lpips as lpips_of
from efface.metrics.paired import paired_scores
from efface.models.clip import EMBEDDED, Clip, open_clip
from efface.models.open import BUILT_IN
from efface.models.runtime import resolve_device

if TYPE_CHECKING:
    import torch

    from efface.api.images import ImagesLike
    from efface.progress import Progress

#: The distances between two sets.
DISTANCES: Mapping[str, Callable[..., Measured]] = {"fid": fid, "kid": kid, "cmmd": cmmd}
#: All metrics, in the order of the output.
NAMES = (*DISTANCES, "lpips", "clip_score")
_CLIP, _OFFLINE, _CLOSED_WORLD = "openai/clip-vit-base-patch32", "efficientnet", "emoji-clip"


@dataclass(frozen=True)
class Comparison(VerbResult):
    """Two sets of images beside one another.

    Attributes:
        images: Number of images of the first and of the second set.
        pairs: Number of images with the same prompt and seed, or without metadata the same file name.
        distances: FID, KID, CMMD and the mean LPIPS of the pairs, with their intervals.
        clip_score: The mean CLIP score of the `first` and the `second` set, and of the pairs the `change`.
        missing: Why a metric is missing, by name.
        errors: Number of images that could not be read; they are left out.
    """

    images: tuple[int, int]
    pairs: int
    distances: Mapping[str, Measured]
    clip_score: Mapping[str, Measured]
    missing: Mapping[str, str]
    errors: int

    def to_json(self) -> dict[str, Any]:
        """The object that `efface compare --json` prints."""
        numbers = {name: number.as_dict() for name, number in self.distances.items()}
        scores = {name: number.as_dict() for name, number in self.clip_score.items()}
        return {**super().to_json(), "distances": numbers, "clip_score": scores}


@none_is_not_given
def compare(
    first: ImagesLike,
    second: ImagesLike,
    *,
    metrics: Sequence[str] = (),
    extractor: str | None = None,
    clip: str | None = None,
    lpips: Sequence[Path | str] = (),
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Compute FID, KID, CMMD, CLIP score and LPIPS of two existing sets of images, with their intervals.

    Example:
        >>> before, after = efface.generate("a cat", n=8), efface.generate("a dog", n=8)
        >>> efface.compare(before, after).distances["kid"].value > 0
        True

    Args:
        first: A folder of images, the result of `efface.generate`, or images.
        second: The other images.
        metrics: The metrics to compute, of `NAMES`; by default all for which there are weights and prompts.
        extractor: What computes features (`efface.metrics.features`); by default the embedded model's own CLIP for its
            images, else `efficientnet`.
        clip: The CLIP of the CLIP score; by default the embedded model's own for its images, else ViT-B/32.
        lpips: LPIPS's files of weights (`efface.metrics.lpips`); without them, LPIPS is left out.
        device: The device to compute on.
        progress: The progress callback.

    Raises:
        BadInput: The images, a metric or its weights cannot be used; the message says what to change.
    """
    if unknown := [name for name in metrics if name not in NAMES]:
        raise BadInput(f"Unknown metric '{unknown[0]}'; there is: {', '.join(NAMES)}.")
    if "lpips" in metrics and not lpips:
        raise BadInput("LPIPS needs its weights; give them with --lpips FILE, or leave the metric out.")
    sets = [_readable(images_from(images)) for images in (first, second)]
    for (images, _), which in zip(sets, ("first", "second"), strict=True):
        if len(images) < 2:
            raise BadInput(f"The {which} set has {len(images)} readable image; a distance needs two at least.")
    one, other = (images for images, _ in sets)
    errors = sum(unreadable for _, unreadable in sets)
    name, embedded = resolve_device(device), all(image.row.get("model") in BUILT_IN for image in (*one, *other))
    wanted = tuple(metrics) or NAMES
    missing: dict[str, str] = {}
    distances = _distances(one, other, wanted, extractor, embedded, name, missing, progress, bool(metrics))
    pairs = _pairs(one, other)
    if "lpips" in wanted:
        if not lpips or len(pairs) < 2:
            missing["lpips"] = "there are fewer than two pairs" if lpips else "no weights were given (--lpips FILE)"
        else:
            net, prompts = Lpips(*lpips, device=name), _prompts([pair[0] for pair in pairs])
            distances["lpips"] = lpips_of(net, _pixels(p[0] for p in pairs), _pixels(p[1] for p in pairs), prompts)
    scores: dict[str, Measured] = {}
    if "clip_score" in wanted:
        if _prompts(one) is None or _prompts(other) is None:
            missing["clip_score"] = "an image has no prompt in its folder's metadata"
        else:
            try:
                opened = open_clip(clip or (EMBEDDED if embedded else _CLIP), name)
            except BadInput as error:
                if clip or metrics:
                    raise
                missing["clip_score"] = str(error).rstrip(".")
            else:
                scores = _clip_scores(one, other, pairs, opened)
    if metrics and missing:
        metric, reason = next(iter(missing.items()))
        raise BadInput(f"Cannot compute {metric}: {reason}.")
    return Comparison((len(one), len(other)), len(pairs), distances, scores, missing, errors)


def _readable(images: Sequence[Image]) -> tuple[list[Image], int]:
    """The images that can be read, and the number of the others."""
    readable: list[Image] = []
    for image in images:
        try:
            image.pixels()
        except OSError:
            continue
        readable.append(image)
    return readable, len(images) - len(readable)


def _distances(
    one: Sequence[Image],
    other: Sequence[Image],
    wanted: Sequence[str],
    extractor: str | None,
    embedded: bool,
    device: str,
    missing: dict[str, str],
    progress: Progress | None,
    required: bool,
) -> dict[str, Measured]:
    """The distances of features; those that have no interval, or no default extractor, go to `missing`."""
    measures = {name: measure for name, measure in DISTANCES.items() if name in wanted}
    if not measures:
        return {}
    try:
        opened = open_extractor(extractor or (_CLOSED_WORLD if embedded else _OFFLINE), device)
    except BadInput as error:  # a package or the weights of the default extractor are missing
        if extractor or required:
            raise
        missing |= dict.fromkeys(measures, str(error).rstrip("."))
        return {}
    x, y = (extract(opened, _pixels(images), _prompts(images), progress) for images in (one, other))
    distances: dict[str, Measured] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small sets, which the number's note repeats
        for name, measure in measures.items():
            try:
                distances[name] = measure(x, y)
            except NoInterval as error:
                missing[name] = str(error).rstrip(".")
    return distances


def _clip_scores(
    one: Sequence[Image], other: Sequence[Image], pairs: Sequence[tuple[Image, Image]], clip: Clip
) -> dict[str, Measured]:
    """The mean CLIP score of each set and, of the pairs, the difference of the second minus the first."""

    def scores(images: Sequence[Image]) -> list[float]:
        return clip_scores(clip, _pixels(images), _prompts(images) or ()).tolist()

    version = PLAIN.version(clip)
    numbers: dict[str, Measured] = {}
    for name, images in (("first", one), ("second", other)):
        numbers[name] = mean_with_interval(by_prompt(scores(images), _prompts(images)), version)
    if len(pairs) > 1:
        prompts = _prompts([pair[0] for pair in pairs])
        before, after = (by_prompt(scores([pair[i] for pair in pairs]), prompts) for i in (0, 1))
        numbers["change"] = paired_scores(before, after)
    return numbers


def _pairs(one: Sequence[Image], other: Sequence[Image]) -> list[tuple[Image, Image]]:
    """The images of both sets with one prompt and seed, or of sets without metadata with one file name."""
    by_key = {_key(image): image for image in other}
    return [(image, by_key[key]) for image in one if (key := _key(image)) in by_key]


def _key(image: Image) -> tuple[object, object]:
    row = image.row
    return (row["prompt"], row["seed"]) if row.get("prompt") and "seed" in row else ("", row.get("file_name"))


def _prompts(images: Sequence[Image]) -> tuple[str, ...] | None:
    """The prompt of each image; None if one has none."""
    prompts = [image.row.get("prompt") for image in images]
    return tuple(map(str, prompts)) if all(prompts) else None


def _pixels(images: Iterable[Image]) -> Iterator[Pixels]:
    """Pictures of shape (H, W, 3), each read when it is needed."""
    return (image.pixels() for image in images)
