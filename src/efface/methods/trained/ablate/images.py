"""Anchor pictures of concept ablation: what the base draws for the anchor prompts, or a folder of pictures.

Where a memorised picture is ablated, a detector of copies looks at five pictures of each anchor prompt, as in the
CompVis code: the ten prompts with the fewest copies are the anchors, and of the others the three with the most are
ablated too. Anchor pictures that are copies are left out.

Shapes: S the side of a picture in pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import BadFile, BadRequest
from efface.files import sha256_of_tensors
from efface.methods.base import CopyDetector, Pictures
from efface.methods.trained.ablate.augment import View
from efface.methods.trained.ablate.config import AblateConfig
from efface.methods.trained.ablate.prompts import anchor_of, read_prompt_file, templates, usable
from efface.methods.trained.ablate.prompts import captions as written
from efface.models.model import Model
from efface.request.record import Concept

# What the VAE makes of concept ablation's pictures. A picture that comes again as it was is encoded once.
#
# Shapes: b pictures, C latent channels, h and w latent size.


class Encoder:
    """Latents' means and deviations, of views with a key kept for the next time.

    Those are encoded alone: beside others they would differ by rounding, and a training that is taken up again meets
    them beside others.

    Args:
        vae: Encodes.
        device: Its.
    """

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._kept: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def __call__(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (b, C, h, w) each."""
        keys = [view.key for view in views if view.key is not None]
        if len(keys) < len(views):
            return self._encoded([view.picture for view in views])
        for key, view in zip(keys, views, strict=True):
            if key not in self._kept:
                self._kept[key] = self._encoded([view.picture])
        means, deviations = zip(*(self._kept[key] for key in keys), strict=True)
        return torch.cat(means), torch.cat(deviations)

    def _encoded(self, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found = self._vae.encode(torch.stack(list(pictures)).to(self._device, self._vae.dtype)).latent_dist
        return found.mean.float(), found.std.float()


_LOOKED_AT, _ANCHORS, _TARGETS = 5, 10, 3


class AnchorImage(NamedTuple):
    """A picture and the anchor prompt that it was drawn by."""

    caption: str
    picture: Tensor  # (3, S, S), bytes
    number: int  # among all that there could be, copies included


@dataclass(frozen=True)
class Source:
    """Where a concept's anchor pictures come from.

    Attributes:
        captions: Anchor prompts; where there are pictures, theirs.
        targets: What is ablated: the concept, and other prompts that draw a memorised picture.
        given: The pictures of a folder, instead of drawing.
    """

    captions: tuple[str, ...]
    targets: tuple[str, ...]
    given: tuple[Tensor, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        pictures = sha256_of_tensors({str(index): picture for index, picture in enumerate(self.given)})
        return hashlib.sha256(json.dumps([self.captions, self.targets, pictures]).encode()).hexdigest()


class AnchorImages:
    """A concept's anchor pictures.

    Args:
        model: Whose pictures.
        concept: What is ablated.
        config: The method's.
        pictures: Draws and reads.
        copies: Finds copies of a memorised picture.
        size: S.
        clip_skip: As the request's.
    """

    def __init__(
        self,
        model: Model,
        concept: Concept,
        config: AblateConfig,
        pictures: Pictures,
        copies: CopyDetector | None,
        size: int,
        clip_skip: int | None,
    ) -> None:
        self._concept, self._config, self._pictures, self._size = concept, config, pictures, size
        self._skip, self._copies = clip_skip, copies if concept.kind == "memorised" else None
        if config.datapath:
            self.source = self._read(Path(config.datapath), config.prompts)
            return
        if config.prompts:
            captions = usable(read_prompt_file(Path(config.prompts)), concept, config.prompts)
        elif config.prompt_gen_model:
            captions = written(concept, config.prompt_gen_model, config.num_class_prompts, config.seed, model.device)
        else:
            captions = templates(concept)
        self.source = self._sorted(captions) if self._copies else Source(tuple(captions), (concept.name,))

    def shots(self, slot: int, slots: int, count: int) -> list[AnchorImage]:
        """At most `count` pictures for one of several slots, which share `train_size` pictures.

        Raises:
            BadRequest: All of them are copies.
        """
        captions, config = self.source.captions, self._config
        total = len(self.source.given) or config.train_size
        # A folder with fewer pictures than there are slots serves all of them alike.
        picked = list(range(slot, total, slots))[:count] or list(range(min(total, count)))
        names = [captions[index % len(captions)] for index in picked]
        if self.source.given:
            found = [self.source.given[index] for index in picked]
        else:
            found = self._drawn(names, [config.seed + index // len(captions) for index in picked])
        copied = self._copied(found)
        shots = map(AnchorImage, names, found, picked)
        kept = [shot for shot, is_copy in zip(shots, copied, strict=True) if not is_copy]
        if not kept:
            raise BadRequest(f"All anchor pictures of '{self._concept.name}' are copies; give other prompts=FILE.")
        return kept

    def _drawn(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        config, concept = self._config, self._concept
        made = self._pictures.draw(
            prompts,
            seeds,
            steps=config.sampling_steps,
            guidance=config.guidance_scale,
            sampler=config.sampler,
            negative=concept.name if concept.kind == "unsafe" else None,
            clip_skip=self._skip,
            what=f"anchor pictures of {concept.name}",
        )
        return [square(torch.from_numpy(pixels.copy()), self._size) for pixels in made]

    def _copied(self, found: Sequence[Tensor]) -> list[bool]:
        """Which pictures are copies of the memorised one."""
        if self._copies is None:
            return [False] * len(found)
        assert self._config.mem_impath
        return list(self._copies([x.permute(1, 2, 0).numpy() for x in found], Path(self._config.mem_impath)))

    def _sorted(self, captions: list[str]) -> Source:
        """The anchor prompts among those given, and others that draw the memorised picture."""
        seeds = [self._config.seed + index for index in range(_LOOKED_AT)]
        found = self._drawn([caption for caption in captions for _ in seeds], seeds * len(captions))
        copied: list[int] = torch.tensor(self._copied(found)).view(-1, _LOOKED_AT).sum(1).tolist()
        order = sorted(range(len(captions)), key=lambda index: copied[index])
        anchors = [captions[index] for index in order[:_ANCHORS] if copied[index] < _LOOKED_AT]
        if not anchors:
            raise BadRequest(
                f"Every anchor prompt of '{self._concept.name}' draws the memorised picture; give others with "
                "prompts=FILE."
            )
        rest = [captions[index] for index in order if captions[index] not in anchors and copied[index]]
        others = rest[-_TARGETS:]
        return Source(tuple(anchors), tuple(dict.fromkeys([self._concept.name, *others])))

    def _read(self, folder: Path, prompts: str | None) -> Source:
        """A folder's pictures, with the prompts in it or in a file."""
        pictures = self._pictures.read(folder)
        read = [(caption, square(torch.from_numpy(pixels.copy()), self._size)) for caption, pixels in pictures]
        captions = read_prompt_file(Path(prompts)) if prompts else [caption for caption, _ in read]
        if len(captions) != len(read):
            raise BadFile(f"{folder} has {len(read)} pictures but {prompts} {len(captions)} prompts; give one each.")
        if not all(captions):
            raise BadFile(f"{folder} does not say each picture's prompt; give them, one a line, with prompts=FILE.")
        if self._concept.kind == "object":
            lacking = [caption for caption in captions if caption not in usable(captions, self._concept, str(folder))]
            if lacking:
                raise BadRequest(f"'{lacking[0]}', a prompt of {folder}, has no '{anchor_of(self._concept)}' in it.")
        squares = tuple(picture for _, picture in read)
        return Source(tuple(captions), (self._concept.name,), squares)


def square(pixels: Tensor, size: int) -> Tensor:
    """The middle of a picture (H, W, 3) of bytes, at another size, (3, S, S)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[top : top + side, left : left + side].permute(2, 0, 1)
    if side == size:
        return middle.contiguous()
    scaled = torch.nn.functional.interpolate(middle[None].float(), (size, size), mode="bicubic", antialias=True)
    return scaled[0].round().clamp(0, 255).to(torch.uint8)
