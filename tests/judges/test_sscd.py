"""Copy detection: cosines of descriptors, against files, folders and pictures at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.sscd import CopyJudge


def means(x: torch.Tensor) -> torch.Tensor:
    """Descriptors that are easy to reckon with: the mean of each channel."""
    return x.mean((2, 3))


def image(colour: tuple[int, int, int], size: tuple[int, int] = (30, 20)) -> np.ndarray:
    return np.asarray(Image.new("RGB", size, colour))


def test_the_score_is_the_best_cosine_and_never_negative() -> None:
    red, dark, blue = image((255, 0, 0)), image((0, 0, 0)), image((0, 0, 255))
    judge = CopyJudge(means, "1", {"red or dark": np.stack([red, dark]), "blue": blue[None]})
    described = [
        ((np.array(colour) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
        for colour in ((255, 0, 0), (0, 0, 0), (0, 0, 255), (200, 40, 40))
    ]
    unit = [d / np.linalg.norm(d) for d in described]
    scores = judge.scores(np.stack([image((200, 40, 40)), red]), ["red or dark", "blue"])
    expected = [[max(unit[3] @ unit[0], unit[3] @ unit[1]), max(unit[3] @ unit[2], 0)], [1, max(unit[0] @ unit[2], 0)]]
    assert scores == pytest.approx(np.array(expected), abs=1e-5)
    assert judge.threshold("blue") == 0.5


def test_captions_are_no_pictures() -> None:
    judge = CopyJudge(means, "1", {"a caption": image((9, 9, 9))[None]})
    assert judge.knows("a caption")
    for unknown in ("", "a longer caption " * 50, "no/such/file.png"):
        assert not judge.knows(unknown)
        with pytest.raises(BadInput, match="no picture and no folder"):
            judge.scores(image((9, 9, 9))[None], [unknown])


def test_pictures_are_288_at_the_shorter_side() -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return means(x)

    CopyJudge(network, "1").descriptors(image((9, 9, 9), (30, 20))[None])
    assert seen == [(1, 3, 288, 432)]


def test_questions_are_pictures_or_folders(judge_files: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    reference = np.asarray(Image.open(judge_files / "reference.png"))
    Image.fromarray(reference).save(copies / "a.png")
    Image.new("RGB", (50, 50), "red").save(copies / "b.png")
    judge = open_judge(f"sscd:{judge_files / 'sscd.pt'}", trust_torchscript=True)
    scores = judge.scores(reference[None], [str(judge_files / "reference.png"), str(copies), str(copies / "b.png")])
    assert scores[0, :2] == pytest.approx(1, abs=1e-5)
    assert scores[0, 2] < 1
    (tmp_path / "c.png").write_bytes((copies / "a.png").read_bytes()[:100])
    with pytest.raises(BadInput, match=r"c\.png"):
        judge.scores(reference[None], [str(tmp_path / "c.png")])


def test_torchscript_runs_only_when_trusted(judge_files: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--trust-torchscript"):
        open_judge(f"sscd:{judge_files / 'sscd.pt'}")
    (tmp_path / "sscd.pt").write_bytes(b"PK not really")
    with pytest.raises(BadInput, match=r"sscd\.pt"):
        open_judge(f"sscd:{tmp_path / 'sscd.pt'}", trust_torchscript=True)
    with pytest.raises(BadInput, match="no such file"):
        open_judge("sscd", trust_torchscript=True)
