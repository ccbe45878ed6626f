"""Pictures for methods that learn from what the unedited model draws.

Each is drawn once and kept in the cache (see `cache`), whole as soon as it is there: an interrupted run goes on where
it was, and processes that run side by side do not disturb each other. Batches are cut from all that is asked for, not
from what is missing: a batch of another size may round a pixel, and a run that goes on would no longer be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.errors import BadFile, BadInput
from efface.generate.cache import cached, keep
from efface.generate.folder import read_folder
from efface.generate.jobs import Job, Progress, Sampling
from efface.generate.run import Recipe
from efface.generate.sampling import sample
from efface.models import Model

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
        found = {key: picture for key, _ in wanted if (picture := cached(key)) is not None}
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
                keep(key, pixels)
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
