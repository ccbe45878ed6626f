"""Pixel copies against a root mean square by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efface.errors import BadInput
from efface.judges import ReferenceJudge, open_judge
from efface.judges.pixels import RMS, PixelJudge
from efface.models.emoji import MEMORISED


def noise(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_the_score_is_the_nearest_pictures() -> None:
    judge = PixelJudge({"either": [noise(0), noise(1)]})
    images = np.stack([noise(1), noise(2)])
    far = [np.sqrt(((images[1] / 127.5 - noise(k) / 127.5) ** 2).mean()) for k in (0, 1)]
    assert judge.scores(images, ["either"])[:, 0] == pytest.approx([1, 1 - min(far) / 2], abs=1e-12)


def test_a_copy_is_within_the_bound() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    judge = PixelJudge({"grey": [grey]})
    step = int(RMS * 127.5)
    scores = judge.scores(np.stack([grey + step, grey + step + 1]).astype(np.uint8), ["grey"])[:, 0]
    assert (scores >= judge.threshold("grey")).tolist() == [True, False]


def test_pictures_of_another_size_are_brought_to_the_images() -> None:
    big = np.full((40, 40, 3), 77, np.uint8)
    assert PixelJudge({"it": [big]}).scores(big[None, :16, :16], ["it"]).item() == 1


def test_knowing_references_leaves_the_judge_as_it_was(tmp_path: Path) -> None:
    judge = open_judge("pixels")
    assert isinstance(judge, ReferenceJudge)
    wiser = judge.with_references({"a caption": [noise(0)]})
    assert wiser.knows("a caption")
    assert not judge.knows("a caption")
    for name in ("five.png", "six.png"):
        Image.fromarray(noise(5)).save(tmp_path / name)
    assert judge.scores(noise(5)[None], [str(tmp_path / "five.png")]).item() == 1
    assert not wiser.knows(str(tmp_path / "six.png")), "its questions are no paths"
    with pytest.raises(BadInput, match="cannot recognise"):
        wiser.scores(noise(5)[None], [str(tmp_path / "six.png")])
    with pytest.raises(BadInput, match="no picture and no folder"):
        judge.scores(noise(0)[None], ["a caption"])


def test_the_embedded_models_memorised_picture_is_here() -> None:
    with Image.open(MEMORISED) as picture:
        assert picture.size == (64, 64)
