"""Answers that are neither yes nor no count in no rate, and are counted apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges.base import Pixels, Scores
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.run import run_protocol
from efface.request.record import Concept, Request

REQUEST = Request(
    concepts=(Concept(name="cat", guide="dog", adjacent=("dog",), adversarial=("star",)),), preserve=("a car",)
)


class Hesitating:
    """Scores by how bright an image is; undecided from `floor` to `top`."""

    name, version = "hesitating", "1"

    def __init__(self, floor: float, top: float) -> None:
        self._floor, self._top = floor, top

    def knows(self, concept: str) -> bool:
        return True

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in ("cat", "dog", "car") if name != concept)

    def same(self, one: str, other: str) -> bool:
        return one == other

    def threshold(self, concept: str) -> float:
        return self._top

    def floor(self, concept: str) -> float:
        return self._floor

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return np.repeat(images.mean(axis=(1, 2, 3))[:, None] / 255, len(concepts), axis=1)


def run(model: Model, judge: Hesitating, out: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.setenv("EFFACE_CACHE", str(out.parent / "cache"))
    eraser = efface.erase(model, REQUEST)
    entry = PROTOCOLS.get("err")
    return run_protocol(entry, model, {"mine": eraser}, judge, out=out, n=8, sampling=Sampling("ddim", 2, 3.0))


def test_undecided_images_are_left_out_and_counted(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tiny_model, Hesitating(0.0, 0.0), tmp_path / "sure", monkeypatch).erasers["mine"]
    scores = sorted(shot.score for shot in first.images)
    floor, top = scores[len(scores) // 4], scores[3 * len(scores) // 4]
    found = run(tiny_model, Hesitating(floor, top), tmp_path / "out", monkeypatch)
    result = found.erasers["mine"]
    assert sum(result.undecided.values()) >= len(scores) // 3
    for metric in ("forget", "retain", "adjacent", "adversarial"):
        shots = [shot for shot in result.images if shot.probe.metric == metric]
        doubts = [shot for shot in shots if floor <= shot.score < top]
        assert result.undecided.get(metric, 0) == len(doubts)
        assert all(shot.undecided and shot.shows is None and shot.error is None for shot in doubts)
        decided = [shot for shot in shots if shot not in doubts]
        assert (result.metrics[metric].n if decided else 0) == len(decided)
        if decided and metric == "forget":
            assert result.metrics[metric].value == np.mean([shot.score < floor for shot in decided])
    assert result.destinations["forget"]["cat"].get("undecided", 0) == result.undecided.get("forget", 0)
    assert result.errors == 0, "doubt is no failure"
    assert found.as_dict()["erasers"]["mine"]["undecided"] == result.undecided


def test_a_judge_that_is_always_undecided_gives_no_rate_and_no_calibration(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(tiny_model, Hesitating(0.0, 1.0), tmp_path / "out", monkeypatch)
    result = found.erasers["mine"]
    assert result.metrics == {}
    assert result.change == {}
    assert result.undecided == {"forget": 8, "retain": 8, "adjacent": 4, "adversarial": 4}
    assert (found.judge.recall, found.judge.false_positive_rate) == (None, None)
    assert found.erasers[BASE].undecided == result.undecided
    assert found.errors == 0


def test_an_eraser_that_debiases_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    from dataclasses import replace

    debiasing = Request.make("cat", ["red", "blue"], goal="debias")
    eraser = replace(efface.erase(tiny_model, "cat", "dog"), request=debiasing)
    with pytest.raises(BadInput, match=r"'fair' debiases 'cat' and erases nothing.*efface judge DIR -q 'red'"):
        run_protocol(PROTOCOLS.get("err"), tiny_model, {"fair": eraser}, Hesitating(0.0, 1.0), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
