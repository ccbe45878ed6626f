"""Pictures for methods that learn from what the unedited model draws.

Each is drawn once and kept in the cache (see `cache`), whole as soon as it is there: an interrupted run goes on where
it was, and processes that run side by side do not disturb each other. Batches are cut from all that is asked for, not
from what is missing: a batch of another size may round a pixel, and a run that goes on would no longer be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from efface.errors import BadFile, BadInput
from efface.generation.folder import cache_image, cached_image, read_folder, read_picture
from efface.generation.jobs import Job, Sampling
from efface.generation.run import Recipe
from efface.generation.sampling import sample, sample_latents
from efface.judges.base import Judge, ReferenceJudge
from efface.models import Model
from efface.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from efface.eraser.eraser import Eraser
    from efface.methods.base import CopyDetector, Latents, Measure


_NAMED = 5  # files, in a message


class CachedPictures:
    """A model's pictures (`efface.methods.base.Pictures`).

    Args:
        model: what draws.
        progress: told as pictures are done.
    """

    def __init__(self, model: Model, progress: Progress | None = None) -> None:
        self._model, self._progress = model, progress

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        sampler: Any,
        negative: str | None = None,
        clip_skip: int | None = None,
        what: str = "pictures",
    ) -> list[NDArray[np.uint8]]:
        """A picture (H, W, 3) for each prompt and its seed.

        Raises:
            BadInput: the model's numbers are not finite.
        """
        own = Sampling.default(self._model)
        how = replace(own, sampler=sampler, steps=steps, guidance=guidance, clip_skip=clip_skip)
        jobs = [Job(prompt, seed, negative=negative) for prompt, seed in zip(prompts, seeds, strict=True)]
        recipe = Recipe.of(self._model, how)
        keys = [str(recipe.row(job)["key"]) for job in jobs]
        wanted = list(dict(zip(keys, jobs, strict=True)).items())
        found = {key: picture for key, _ in wanted if (picture := cached_image(key)) is not None}
        for first in range(0, len(wanted), how.batch_size):
            batch = wanted[first : first + how.batch_size]
            if all(key in found for key, _ in batch):
                continue
            for index, pixels in sample(self._model, [job for _, job in batch], how):
                if pixels is None:
                    raise BadInput(f"{self._model.name} draws numbers that are not finite; its weights are damaged.")
                key, _ = batch[index]
                if key in found:
                    continue
                found[key] = pixels
                cache_image(key, pixels)
                if self._progress:
                    self._progress(what, len(found), len(wanted))
        return [found[key] for key in keys]

    def read(self, folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """The pictures of a folder one by one, each with the prompt in its metadata, or "".

        Raises:
            BadFile: there is no such folder, or some of its pictures cannot be read.
        """
        broken: list[str] = []
        for image in read_folder(folder):
            try:
                pixels = image.pixels()
            except OSError:
                broken.append(str(image.row["file_name"]))
                continue
            yield str(image.row.get("prompt") or ""), pixels
        if broken:
            more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
            raise BadFile(f"Cannot read these pictures in {folder}: {', '.join(broken[:_NAMED])}{more}; remove them.")


# What the unedited model draws, before it is decoded: for methods and attacks that read latents.


def latents_of(model: Model) -> Latents:
    """The function that draws one prompt's latents (n, C, h, w), one a seed, with what is on the model meanwhile."""

    def latents(
        prompt: str, seeds: Sequence[int], *, steps: int, guidance: float, sampler: Any, clip_skip: int | None = None
    ) -> Tensor:
        how = Sampling(sampler=sampler, steps=steps, guidance=guidance, clip_skip=clip_skip)
        return sample_latents(model, [Job(prompt, seed) for seed in seeds], how)

    return latents


# How often images of a prompt show each of several attributes: what debiasing is steered by.
#
# An image counts for the attribute that the judge scores highest, as in UCE's script, whatever the threshold. One that
# it
# gives no score for counts for none.


def measure_by(judge: Judge, model: Model) -> Measure:
    """The measure that a judge makes of what a model draws."""

    def measure(
        prompt: str,
        attributes: Sequence[str],
        eraser: Eraser | None,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        clip_skip: int | None = None,
    ) -> list[float]:
        for attribute in attributes:
            if not judge.knows(attribute):
                raise BadInput(f"The judge '{judge.name}' cannot recognise '{attribute}'; choose another with --judge.")
        how = replace(Sampling.default(model), steps=steps, guidance=guidance, clip_skip=clip_skip)
        jobs = [Job(prompt, seed) for seed in seeds]
        drawn = [pixels for _, pixels in sample(model, jobs, how, eraser) if pixels is not None]
        if not drawn:
            raise RuntimeError(f"No image of '{prompt}' could be made: the model gave numbers that are not finite.")
        scores = judge.scores(np.stack(drawn), attributes)
        scored = scores[np.isfinite(scores).all(axis=1)]
        if not len(scored):
            raise RuntimeError(f"The judge '{judge.name}' gave no score for any image of '{prompt}'.")
        return (np.bincount(scored.argmax(axis=1), minlength=len(attributes)) / len(scored)).tolist()

    return measure


# Whether pictures are copies of another one, for methods that must know (`efface.methods.base.CopyDetector`).
#
# A judge that compares pictures (`sscd`, `pixels`) says so itself. For the embedded model its own CLIP does, by image
# features f:
#
#     copy: cos(f(picture), f(original)) >= 0.9


Picture = NDArray[np.uint8]

#: From which cosine on the embedded CLIP takes two pictures for one.
CLOSE = 0.9


def copies_by(judge: Judge) -> CopyDetector:
    """The detector that a judge is.

    Raises:
        BadInput: it does not compare pictures.
    """
    if not isinstance(judge, ReferenceJudge):
        raise BadInput(f"The judge '{judge.name}' does not compare pictures; take sscd:FILE with --trust-torchscript.")

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        comparing = judge.with_references({"": [_read(original)]})
        return (comparing.scores(np.stack(pictures), [""])[:, 0] >= comparing.threshold("")).tolist()

    return copies


def copies_by_embedded_clip(device: torch.device) -> CopyDetector:
    """The embedded model's detector."""
    from efface.models.clip import open_clip

    clip = open_clip("", device)

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        sides = (_read(original)[None], np.stack(pictures))
        r_1d, f_nd = (F.normalize(clip.image_features(side), dim=1) for side in sides)
        return ((f_nd @ r_1d.T).squeeze(1) >= CLOSE).tolist()

    return copies


def _read(original: Path) -> Picture:
    """The picture that others may be copies of.

    Raises:
        BadFile: it cannot be read.
    """
    try:
        return read_picture(original)
    except OSError as error:
        raise BadFile(f"Cannot read the picture {original}: {error}.") from error
