"""The images of an evaluation, which are generated, or exist already and are found by their prompt and seed.

An evaluation can be done in two stages, also on two machines: the stage `generate` generates every image, and the stage
`judge` finds every image in the folder. Images of the unedited model can also come from a folder of the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from efface.eraser.eraser import Eraser
from efface.errors import BadFile
from efface.generation import Image, Job, Recipe, Sampling, generate_images
from efface.generation.folder import folder_name
from efface.generation.run import find_image
from efface.generation.stored_images import StoredImages
from efface.image_files import is_picture
from efface.models import Model
from efface.progress import Progress
from efface.protocols.plan import BASE, Plan

#: The stages of an evaluation.
Stage = Literal["generate", "judge"]


@dataclass(frozen=True)
class RunImages:
    """The images of one evaluation.

    Attributes:
        model: The unedited model.
        sampling: How images are generated.
        erasers: By name.
        out: The folder of the run; images are in `images/NAME`.
        use_cache: Whether images of the unedited model go through the cache.
        base: Images of the unedited model that exist already.
        stage: The stage; None for both.
        progress: The progress callback.
    """

    model: Model
    sampling: Sampling
    erasers: Mapping[str, Eraser]
    out: Path
    use_cache: bool
    base: StoredImages | None = None
    stage: Stage | None = None
    progress: Progress | None = None
    _stored: dict[str, StoredImages] = field(default_factory=dict[str, StoredImages], init=False)  # by model

    def check(self, plans: Mapping[str, Plan]) -> None:
        """Check the images that exist already, before any image is generated.

        Args:
            plans: By eraser, and of the unedited model.

        Raises:
            BadFile: An image is missing in the second stage, or cannot be used; or no image of `base` is needed.
        """
        for name, plan in plans.items():
            existing = self._existing(name)
            if existing is None:
                continue
            recipe = Recipe.of(self.model, self.sampling, self.erasers.get(name))
            jobs = [*(probe.job for probe in plan.probes), *plan.jobs]
            if jobs and not [job for job in jobs if find_image(existing, self.model, recipe, job)]:
                raise BadFile(
                    f"{existing.folder} has none of the {len(set(jobs))} images that this evaluation needs, such as "
                    f"'{jobs[0].prompt}' with seed {jobs[0].seed}; leave --base out."
                )

    def of(self, plan: Plan, name: str = BASE) -> dict[Job, Image]:
        """The images of one model, those of probes first.

        Args:
            plan: The images that the model needs.
            name: The name of the eraser, or of the unedited model.
        """
        asked = dict.fromkeys(probe.job for probe in plan.probes)
        others = [job for job in dict.fromkeys(plan.jobs) if job not in asked]
        images: dict[Job, Image] = {}
        for jobs, what in ((list(asked), "images"), (others, "more images" if asked else "images")):
            if jobs:
                generated = generate_images(
                    self.model,
                    jobs,
                    self.sampling,
                    out=self.out / "images" / folder_name(name),
                    eraser=self.erasers.get(name),
                    use_cache=self.use_cache and name == BASE,
                    existing=self._existing(name),
                    progress=self.progress,
                    what=f"{what} of {name}",
                )
                images |= zip(jobs, generated, strict=True)
        return images

    def _existing(self, name: str) -> StoredImages | None:
        """The images of one model that are not generated: in the second stage all of them."""
        if self.stage != "judge":
            return self.base if name == BASE else None
        if name not in self._stored:
            folder = self.out / "images" / folder_name(name)
            try:
                self._stored[name] = StoredImages(folder, complete=True)
            except BadFile as error:
                if folder.is_dir() and any(map(is_picture, folder.iterdir())):
                    raise
                raise BadFile(f"{error} The stage generate has to end first.") from error
        return self._stored[name]
