"""The tools that methods request by name: pictures and latents of the model, a measure by a judge, a copy detector.

`efface.methods.base` has their protocols. Methods are below generation and judges in the import order, so the callers
of a method pass these tools to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from efface.apply.attachment import Attachment
from efface.errors import BadFile, BadInput
from efface.files import atomic, sha256_of_file, slug, why_not_written
from efface.generation.folder import METADATA, cache_image, cached_image, read_folder, write_picture
from efface.generation.jobs import Job, Sampling
from efface.generation.rows import Row, line_of, read_image_rows, write_rows
from efface.generation.run import Recipe
from efface.generation.sampling import sample, sample_latents
from efface.image_files import read_picture
from efface.judges.base import Judge, ReferenceJudge
from efface.judges.shared.unknown import unrecognised
from efface.judges.verdicts import answer_of
from efface.models import Model
from efface.models.clip import Clip
from efface.models.flow import is_flow
from efface.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from efface.edits.kinds import Edit
    from efface.methods.base import CopyDetector, Latents, Measure, Recognised


Picture = NDArray[np.uint8]

#: The lowest cosine at which the CLIP of a closed world counts two pictures as copies.
COPY_COSINE = 0.9
_NAMED = 5  # files in a message


class CachedPictures:
    """Pictures of the unedited model, for methods that learn from them (`efface.methods.base.Pictures`).

    Each picture is drawn once and stored in the image cache, so that an interrupted run resumes, and parallel
    processes do not disturb each other. Batches are formed from all requested pictures and not from the missing ones:
    a batch of another size may round a pixel differently, and a resumed run would give other pictures.

    Args:
        model: The model.
        progress: The progress callback, called after each picture.
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
        folder: Path | None = None,
    ) -> list[Picture]:
        """Draw a picture of shape (H, W, 3) for each prompt and its seed.

        Args:
            prompts: The prompts.
            seeds: The seed of each prompt.
            steps: Number of sampling steps.
            guidance: The scale of classifier-free guidance.
            sampler: The sampler.
            negative: The negative prompt.
            clip_skip: Number of last layers of the text encoder to skip.
            what: The name of the work for the progress callback.
            folder: Where the pictures stay, besides the cache, and are found by a later call.

        Raises:
            BadInput: The model's output is not finite.
            BadFile: The folder cannot be written.
        """
        how = replace(
            Sampling.default(self._model),
            sampler=_possible(sampler, self._model),
            steps=steps,
            guidance=guidance,
            clip_skip=clip_skip,
        )
        jobs = [Job(prompt, seed, negative=negative) for prompt, seed in zip(prompts, seeds, strict=True)]
        recipe = Recipe.of(self._model, how)
        rows = [recipe.row(job) for job in jobs]
        keys = [str(row["key"]) for row in rows]
        wanted = list(dict(zip(keys, jobs, strict=True)).items())
        stored = {} if folder is None else _stored_pictures(folder, set(keys))
        pictures = {
            key: picture
            for key, _ in wanted
            if (picture := stored[key] if key in stored else cached_image(key)) is not None
        }
        for first in range(0, len(wanted), how.batch_size):
            batch = wanted[first : first + how.batch_size]
            if all(key in pictures for key, _ in batch):
                continue
            for index, pixels in sample(self._model, [job for _, job in batch], how):
                if pixels is None:
                    raise BadInput(f"{self._model.name} gives numbers that are not finite; its weights are damaged.")
                key, _ = batch[index]
                if key in pictures:
                    continue
                pictures[key] = pixels
                cache_image(key, pixels)
                if self._progress:
                    self._progress(what, len(pictures), len(wanted))
        if folder is not None:
            _store_pictures(folder, {row["key"]: row for row in rows if row["key"] not in stored}, pictures)
        return [pictures[key] for key in keys]

    def read(self, folder: Path) -> Iterator[tuple[str, Picture]]:
        """Read the pictures of a folder, each of shape (H, W, 3), with the prompt in its metadata, or "".

        Raises:
            BadFile: There is no such folder, or some of its pictures cannot be read.
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

    def folder_of(self, concept: str, folder: Path) -> Path:
        """The folder with the images of a concept.

        It is `folder` itself if it has images, else the folder below it that is named after the concept, or whose
        metadata names the concept as `efface generate --classes` does.

        Args:
            concept: The concept.
            folder: The folder that the user named.

        Raises:
            BadFile: There is no such folder, or no image of the concept.
        """
        if not folder.is_dir():
            raise BadFile(f"Cannot read images from {folder}: it is not a folder.")
        below = sorted(path for path in folder.iterdir() if path.is_dir())
        if not below or (folder / METADATA).is_file():
            return folder
        for path in below:
            labels = {str(row.get("concept", "")) for row in read_image_rows(path / METADATA)} | {path.name}
            if slug(concept) in map(slug, labels):
                return path
        raise BadFile(
            f"No folder in {folder} is of '{concept}', by its name or its metadata; name the folder with its images."
        )


def _stored_pictures(folder: Path, keys: Collection[str]) -> dict[str, Picture]:
    """The pictures of a folder that are as they were written, by key."""
    pictures: dict[str, Picture] = {}
    for row in read_image_rows(folder / METADATA):
        if row.get("key") in keys:
            with suppress(OSError):
                path = folder / str(row["file_name"])
                if row.get("sha256") in (None, sha256_of_file(path)):
                    pictures[str(row["key"])] = read_picture(path)
    return pictures


def _store_pictures(folder: Path, rows: Mapping[str, Row], pictures: Mapping[str, Picture]) -> None:
    """Add pictures to a folder, which other processes may do at the same time.

    Args:
        folder: The folder.
        rows: The metadata of the pictures to add, by key.
        pictures: The pictures by key.

    Raises:
        BadFile: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        metadata, earlier = folder / METADATA, read_image_rows(folder / METADATA)
        if metadata.exists() and not metadata.read_bytes().endswith(b"\n"):
            write_rows(metadata, earlier)  # the next row must not continue a partial line
        known = {row.get("key") for row in earlier}
        for key, row in rows.items():
            with atomic(folder / str(row["file_name"])) as temporary:
                write_picture(temporary, pictures[key])
                stored = {**row, "sha256": sha256_of_file(temporary)}
            if key not in known:
                with metadata.open("a", encoding="utf-8") as file:
                    file.write(line_of(stored))
    except OSError as error:
        raise BadFile(f"Cannot write images to {folder}: {why_not_written(error)}.") from error


def _possible(sampler: Any, model: Model) -> Any:
    """The sampler, or `own` for a model that is trained by flow matching: the others need a schedule of betas."""
    return "own" if is_flow(model.scheduler_config) else sampler


def latents_of(model: Model) -> Latents:
    """The function that draws latents of shape (n, C, h, w), one per seed, with the edits attached at that time."""

    def latents(
        prompt: str, seeds: Sequence[int], *, steps: int, guidance: float, sampler: Any, clip_skip: int | None = None
    ) -> Tensor:
        how = Sampling(sampler=_possible(sampler, model), steps=steps, guidance=guidance, clip_skip=clip_skip)
        return sample_latents(model, [Job(prompt, seed) for seed in seeds], how)

    return latents


def measure_by(judge: Judge, model: Model) -> Measure:
    """The function that measures how often images of a prompt show each attribute, for debiasing.

    An image counts for the attribute with the highest score, as in UCE's script, whatever the threshold. An image
    without a score counts for no attribute.
    """

    def measure(
        prompt: str,
        attributes: Sequence[str],
        edits: Sequence[Edit],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        clip_skip: int | None = None,
    ) -> list[float]:
        for attribute in attributes:
            if not judge.knows(attribute):
                raise unrecognised(judge, attribute, "choose another with --judge")
        how = replace(Sampling.default(model), steps=steps, guidance=guidance, clip_skip=clip_skip)
        jobs = [Job(prompt, seed) for seed in seeds]
        with Attachment([edits], model) if edits else nullcontext():
            drawn = [pixels for _, pixels in sample(model, jobs, how) if pixels is not None]
        if not drawn:
            raise RuntimeError(f"No image of '{prompt}' could be made: the model gave numbers that are not finite.")
        scores = judge.scores(np.stack(drawn), attributes)
        scored = scores[np.isfinite(scores).all(axis=1)]
        if not len(scored):
            raise RuntimeError(f"The judge '{judge.name}' gave no score for any image of '{prompt}'.")
        return (np.bincount(scored.argmax(axis=1), minlength=len(attributes)) / len(scored)).tolist()

    return measure


def recognised_by(judge: Judge, model: Model) -> Recognised:
    """The function that measures how often a judge recognises a concept in images of an edited model.

    An image counts if the judge's answer is yes. An image that could not be made or judged is an error, and raises,
    since it must not count as "not recognised".
    """

    def recognised(
        concept: str,
        prompts: Sequence[str],
        edits: Sequence[Edit],
        *,
        seeds: Sequence[int],
        clip_skip: int | None = None,
    ) -> float:
        if not judge.knows(concept):
            raise unrecognised(judge, concept, "choose another with --judge")
        how = replace(Sampling.default(model), clip_skip=clip_skip)
        jobs = [Job(prompt, seed) for prompt in prompts for seed in seeds]
        with Attachment([edits], model):
            drawn = [pixels for _, pixels in sample(model, jobs, how)]
        pictures = [pixels for pixels in drawn if pixels is not None]
        answers = [
            answer_of(judge, concept, score) for score in judge.scores(np.stack(pictures), [concept])[:, 0].tolist()
        ]
        if len(pictures) < len(jobs) or "error" in answers:
            raise RuntimeError(f"Some images of '{concept}' could not be made or judged.")
        return answers.count("yes") / len(answers)

    return recognised


def copies_by(judge: Judge) -> CopyDetector:
    """The copy detector of a judge that compares pictures (`sscd`, `pixels`).

    Raises:
        BadInput: The judge does not compare pictures.
    """
    if not isinstance(judge, ReferenceJudge):
        raise BadInput(f"The judge '{judge.name}' does not compare pictures; use sscd:FILE with --trust-torchscript.")

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        comparing = judge.with_references({"": [_read(original)]})
        return (comparing.scores(np.stack(pictures), [""])[:, 0] >= comparing.threshold("")).tolist()

    return copies


def copies_by_clip(clip: Clip) -> CopyDetector:
    """The copy detector by a CLIP that was trained on a model's images (`Model.clip`), with image features f.

    A picture is a copy if cos(f(picture), f(original)) >= 0.9.
    """

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        sides = (_read(original)[None], np.stack(pictures))
        r_1d, f_nd = (F.normalize(clip.image_features(side), dim=1) for side in sides)
        return ((f_nd @ r_1d.T).squeeze(1) >= COPY_COSINE).tolist()

    return copies


def _read(original: Path) -> Picture:
    """Read the original of possible copies."""
    try:
        return read_picture(original)
    except OSError as error:
        raise BadFile(f"Cannot read the picture {original}: {error}.") from error
