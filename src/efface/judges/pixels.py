"""Pixel copies: whether an image is, pixel for pixel, a picture.

Carlini et al., "Extracting Training Data from Diffusion Models", arXiv 2301.13188, call a memorised image one whose
root mean square distance from a training picture is small. With pixels in [-1, 1]

    score(r | image) = max_i 1 - RMS(image - r_i) / 2

over the pictures r_i of the reference, brought to the image's size; an RMS of 0.10 or less counts as a copy, as for the
embedded model (zoo/emoji/check_model.py). It needs no weights, and forgives neither a shift nor another colour: `sscd`
does. A question names a picture file or a folder of pictures; of a judge that was given references, one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from efface.errors import BadInput
from efface.judges.base import JudgeEntry, Opening, Pixels, Scores
from efface.judges.sscd import read_references
from efface.judges.words import is_path

RMS = 0.10


class PixelJudge:
    """Compares images with references.

    Args:
        references: Pictures (H, W, 3) by the concept that they stand for; by default questions are paths.
    """

    name, version = "pixels", f"RMS {RMS:g} in [-1, 1], bicubic, PIL"

    def __init__(self, references: Mapping[str, Sequence[Pixels]] | None = None) -> None:
        self._references = dict(references or {})
        self._takes_paths = references is None

    def knowing(self, references: Mapping[str, Sequence[Pixels]]) -> PixelJudge:
        return PixelJudge({**self._references, **references})

    def knows(self, concept: str) -> bool:
        return concept in self._references or (self._takes_paths and is_path(concept))

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def threshold(self, concept: str) -> float:
        return 1 - RMS / 2

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return np.stack([self._scores(images, self._pictures(concept)) for concept in concepts], axis=1)

    def _scores(self, images: Pixels, pictures: Sequence[Pixels]) -> Scores:
        """The nearest picture's score, (n,)."""
        height, width = images.shape[1:3]
        x = images.astype(np.float64) / 127.5 - 1
        nearest = np.zeros(len(images))
        for picture in pictures:
            y = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
            rms = np.sqrt(((x - (y.astype(np.float64) / 127.5 - 1)) ** 2).mean(axis=(1, 2, 3)))
            nearest = np.maximum(nearest, 1 - rms / 2)
        return nearest

    def _pictures(self, concept: str) -> Sequence[Pixels]:
        if concept not in self._references:
            if not self.knows(concept):
                raise BadInput(f"The judge 'pixels' cannot recognise '{concept}': it is no picture and no folder.")
            self._references[concept] = read_references(Path(concept))
        return self._references[concept]


def _open(asked: Opening) -> PixelJudge:
    return PixelJudge()


ENTRY = JudgeEntry(
    name="pixels",
    summary="whether an image is a pixel copy of a picture (-q PICTURE or FOLDER); needs no weights",
    source="https://arxiv.org/abs/2301.13188",
    open=_open,
)
