"""The embedded judge's reading of its network: words to classes, probabilities, sizes, files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from efface.errors import BadFile, BadInput
from efface.judges.emoji import EmojiJudge, JudgeNet

OBJECTS, STYLES = ["cat", "dog", "golf ball"], ["flat", "line art"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = JudgeNet(len(OBJECTS), len(STYLES))
    save_file({name: value.half() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    config = {"objects": OBJECTS, "styles": STYLES, "thresholds": {"object": 0.3, "style": 0.5}, "version": "test"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def judge(folder: Path) -> EmojiJudge:
    return EmojiJudge.load(folder, {"kitten": "cat", "line drawing": "line art"})


def pictures(n: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_scores_are_the_probabilities_of_its_heads(judge: EmojiJudge) -> None:
    images = pictures(3)
    p = judge.probabilities(images)
    assert p["object"].shape == (3, 4)
    assert p["style"].shape == (3, 3)
    assert p["object"].sum(1) == pytest.approx(1)
    scores = judge.scores(images, ["golf ball", "line art", "kitten"])
    assert np.array_equal(scores, np.stack([p["object"][:, 2], p["style"][:, 1], p["object"][:, 0]], 1))


def test_scores_do_not_depend_on_company(judge: EmojiJudge) -> None:
    images = pictures(70)
    together = judge.scores(images, OBJECTS)
    alone = np.concatenate([judge.scores(images[i : i + 1], OBJECTS) for i in (0, 33, 69)])
    assert together[[0, 33, 69]] == pytest.approx(alone, abs=1e-5)


def test_classes_below_their_threshold_are_not_seen(judge: EmojiJudge) -> None:
    images = pictures(4)
    p = judge.probabilities(images)
    for i, seen in enumerate(judge.classify(images)):
        best = p["object"][i, :-1].argmax()
        assert seen.object == (OBJECTS[best] if p["object"][i, best] >= 0.3 else None)
        assert seen.object_p == p["object"][i, best]


def test_other_sizes_are_resized(judge: EmojiJudge) -> None:
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 16:48, 16:48] = 200
    large = image.repeat(4, 1).repeat(4, 2)
    assert judge.scores(large, OBJECTS) == pytest.approx(judge.scores(image, OBJECTS), abs=0.02)


def test_words(judge: EmojiJudge) -> None:
    assert judge.knows("Kitten")
    assert judge.knows("a golf ball")
    assert not judge.knows("unicorn")
    assert judge.same("the cat", "kitten")
    assert not judge.same("unicorn", "unicorn")
    assert judge.peers("cat") == ("dog", "golf ball")
    assert judge.peers("line drawing") == ("flat",)
    assert (judge.threshold("dog"), judge.threshold("flat")) == (0.3, 0.5)
    with pytest.raises(BadInput, match=r"objects cat, dog, golf ball; styles flat, line art"):
        judge.scores(pictures(1), ["unicorn"])


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="Cannot read the judge"):
        EmojiJudge.load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "objects": ["cat"]}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadFile, match="Cannot read the judge"):
        EmojiJudge.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(BadFile, match="Cannot read the judge"):
        EmojiJudge.load(tmp_path)
