"""Shares of attributes count images, by what the judge finds most of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Job, Sampling, sample
from efface.judges.base import Pixels, Scores
from efface.models import Model
from efface.tools import measure_by


class Colours:
    """A judge of how red, green or blue an image is, which has no answer to some."""

    name, version = "colours", "1"

    def __init__(self, silent: Sequence[int] = ()) -> None:
        self.silent = list(silent)

    def knows(self, concept: str) -> bool:
        return concept in ("red", "green", "blue")

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one == other

    def threshold(self, concept: str) -> float:
        return 2.0  # never reached: shares do not ask for it

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        found = images.astype(np.float64).mean((1, 2))[:, [("red", "green", "blue").index(c) for c in concepts]] / 255
        found[self.silent] = np.nan
        return found


HOW: dict[str, Any] = {"seeds": range(5, 11), "steps": 2, "guidance": 3.0}


@pytest.mark.parametrize("erased", [False, True])
def test_each_image_counts_for_the_attribute_with_the_best_score(tiny_model: Model, erased: bool) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog") if erased else None
    found = measure_by(Colours(), tiny_model)("a cat", ["blue", "red"], eraser.edits if eraser else (), **HOW)
    jobs = [Job("a cat", seed) for seed in range(5, 11)]
    drawn = [pixels for _, pixels in sample(tiny_model, jobs, Sampling(steps=2, guidance=3.0), eraser)]
    blue = [pixels[..., 2].astype(float).mean() > pixels[..., 0].mean() for pixels in drawn if pixels is not None]
    assert found == [sum(blue) / 6, (6 - sum(blue)) / 6]


def test_an_image_without_an_answer_counts_for_nothing(tiny_model: Model) -> None:
    found = measure_by(Colours(silent=[0, 3]), tiny_model)("a cat", ["red", "green", "blue"], (), **HOW)
    assert sum(found) == pytest.approx(1)
    assert all(share * 4 == round(share * 4) for share in found)
    with pytest.raises(RuntimeError, match="no score"):
        measure_by(Colours(silent=range(6)), tiny_model)("a cat", ["red", "blue"], (), **HOW)


def test_what_the_judge_cannot_recognise_is_refused(tiny_model: Model) -> None:
    with pytest.raises(BadInput, match=r"'pink'.*--judge"):
        measure_by(Colours(), tiny_model)("a cat", ["red", "pink"], (), **HOW)
