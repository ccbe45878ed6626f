"""The zero-shot judge on a tiny random CLIP of the real classes."""

from pathlib import Path

import numpy as np
import pytest

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.clip import NOTHING, ClipJudge
from efface.judges.shared.everyday import rivals_of
from efface.models.clip import open_clip


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


def judge_of(tiny_clip: Path, *alternatives: str) -> ClipJudge:
    return ClipJudge(open_clip(str(tiny_clip)), alternatives)


def test_score_is_a_softmax_over_the_alternatives(tiny_clip: Path, images: np.ndarray) -> None:
    judge = judge_of(tiny_clip, "dog", "horse")
    scores = judge.scores(images, ["cat", "dog"])
    logits = judge.logits(images, ["a cat", "a dog", "a horse", NOTHING])
    assert scores[:, 0] == pytest.approx(logits.softmax(1)[:, 0].numpy())
    rivals = judge.logits(images, ["a dog", "a horse", NOTHING])
    assert scores[:, 1] == pytest.approx(rivals.softmax(1)[:, 0].numpy())


@pytest.mark.parametrize("alternatives", [(), ("dog", "horse")])
def test_scores_do_not_depend_on_what_else_is_asked(
    tiny_clip: Path, images: np.ndarray, alternatives: tuple[str, ...]
) -> None:
    judge = judge_of(tiny_clip, *alternatives)
    alone = judge.scores(images, ["cat"])[:, 0]
    assert judge.scores(images, ["van gogh", "cat", "dog", "car"])[:, 1] == pytest.approx(alone, abs=1e-6)


def test_the_version_tells_the_alternatives(tiny_clip: Path) -> None:
    versions = [judge_of(tiny_clip, *names).version for names in ((), ("dog", "horse"), ("horse", "dog"), ("dog",))]
    assert versions[1] == versions[2]
    assert len(set(versions)) == 3


def test_without_alternatives_something_else_is_one(tiny_clip: Path, images: np.ndarray) -> None:
    judge = judge_of(tiny_clip)
    expected = judge.logits(images, ["a cat", NOTHING]).softmax(1)[:, 0].numpy()
    assert judge.scores(images, ["cat"])[:, 0] == pytest.approx(expected)


def test_the_closest_everyday_name_is_an_alternative(tiny_clip: Path, images: np.ndarray) -> None:
    judge = open_judge(f"clip:{tiny_clip}", ["horse"])
    assert isinstance(judge, ClipJudge)
    everyday = judge.logits(images, [f"a {name}" for name in rivals_of("cat") if name != "horse"]).amax(1).numpy()
    logits = np.column_stack([judge.logits(images, ["a cat", "a horse", NOTHING]).numpy(), everyday])
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    assert judge.scores(images, ["cat"])[:, 0] == pytest.approx(expected)
    assert judge.version.startswith(judge_of(tiny_clip, "horse").version), "and the hash of the everyday names"


def test_logits_are_scaled_cosines(tiny_clip: Path, images: np.ndarray) -> None:
    from transformers import CLIPModel

    scale = CLIPModel.from_pretrained(tiny_clip).logit_scale.exp().item()
    assert judge_of(tiny_clip).logits(images, ["a cat", "a dog"]).abs().max().item() <= scale + 1e-6


def test_not_a_clip(tiny_sd: Path) -> None:
    with pytest.raises(BadInput, match="Cannot open a CLIP model"):
        open_judge(f"clip:{tiny_sd}")
