"""Detectors of copies: by a judge that compares pictures, and by the embedded model's own CLIP."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import efface
from efface import BadInput
from efface.generation import Job, Sampling, sample
from efface.judges import open_judge
from efface.judges.sscd import CopyJudge
from efface.models.clip import open_clip
from efface.tools import copies_by, copies_by_clip


def means(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def test_a_judge_that_compares_pictures_is_a_detector(tmp_path: Path) -> None:
    original = tmp_path / "original.png"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(original)
    colours = ((210, 20, 40), (20, 20, 200), (200, 30, 30))
    pictures = [np.asarray(Image.new("RGB", (16, 16), colour)) for colour in colours]
    judge = CopyJudge(means, "1")
    assert copies_by(judge)(pictures, original) == [True, False, True]
    scores = judge.scores(np.stack(pictures), [str(original)])[:, 0]
    assert [bool(score >= judge.threshold("")) for score in scores] == [True, False, True]
    original.write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"original\.png"):
        copies_by(judge)(pictures, original)
    with pytest.raises(BadInput, match="'emoji' does not compare"):
        copies_by(open_judge("emoji"))


def test_the_embedded_clip_tells_copies_from_other_pictures(tmp_path: Path) -> None:
    model = efface.open_model("emoji")
    jobs = [Job(prompt, seed) for prompt in ("a cat", "a church", "a guitar") for seed in (0, 1)]
    pictures = [pixels for _, pixels in sample(model, jobs, Sampling(steps=8, guidance=5.0)) if pixels is not None]
    original = tmp_path / "original.png"
    Image.fromarray(pictures[0]).save(original)
    assert copies_by_clip(open_clip("emoji"))(pictures, original) == [True, *[False] * 5]
