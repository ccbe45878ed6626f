"""The err protocol from end to end on a tiny model, with a judge that goes by the strongest colour."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Sampling, read_folder
from efface.judges import read_verdicts
from efface.judges.base import Pixels, Scores
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.err import ENTRY
from efface.protocols.run import run_protocol
from efface.protocols.scored_images import is_broken
from efface.request.record import Concept, Request
from support import StubJudge

WORLD = ("cat", "dog", "car")
SAMPLING = Sampling("ddim", 2, 3.0)
REQUEST = Request(
    concepts=(Concept(name="cat", guide="dog", aliases=("red bird",), adjacent=("dog",), adversarial=("blue star",)),),
    preserve=("a car",),
)


class Strongest(StubJudge):
    """Sees a cat in what is mostly red, a dog in green, a car in blue; fails where `fails` says so."""

    name, version = "strongest", "1"

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def knows(self, concept: str) -> bool:
        return concept in WORLD

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in WORLD if name != concept)

    def threshold(self, concept: str) -> float:
        return 1 / 3

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        mean = images.mean(axis=(1, 2)) + 1e-9
        share = mean / mean.sum(1, keepdims=True)
        if self.fails:
            share[mean[:, 0] > np.median(mean[:, 0])] = np.nan
        return share[:, [WORLD.index(concept) for concept in concepts]]


@pytest.fixture
def eraser(tiny_model: Model) -> efface.Eraser:
    return efface.erase(tiny_model, REQUEST)


def run(model: Model, erasers: dict[str, efface.Eraser], out: Path, judge: Strongest | None = None) -> Evaluation:
    entry = PROTOCOLS.get("err")
    return run_protocol(entry, model, erasers, judge or Strongest(), out=out, n=8, sampling=SAMPLING)


def test_every_number_comes_from_its_shots(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    found = run(tiny_model, {"mine": eraser}, tmp_path / "out")
    result = found.erasers["mine"]
    sizes = {"forget": 8, "retain": 8, "adjacent": 4, "indirect": 4, "adversarial": 4}
    assert {metric: rate.n for metric, rate in result.metrics.items()} == {**sizes, "err": sum(sizes.values())}
    for metric, rate in list(result.metrics.items())[:5]:
        shots = [shot for shot in result.images if shot.probe.metric == metric]
        wanted = metric in ("retain", "adjacent")
        assert rate.value == np.mean([shot.shows is wanted for shot in shots])
        assert result.change[metric].value == pytest.approx(rate.value - result.base[metric].value)
        assert found.erasers[BASE].metrics[metric] == result.base[metric]
    values = [result.metrics[metric].value for metric in sizes]
    assert result.metrics["err"].value == pytest.approx(5 / sum(1 / v for v in values) if all(values) else 0)
    forgotten = [shot for shot in result.images if shot.probe.metric == "forget"]
    assert sum(result.destinations["forget"]["cat"].values()) == 8
    assert result.destinations["forget"]["cat"].get("concept", 0) == sum(shot.shows is True for shot in forgotten)
    assert all(shot.recognised == "dog" for shot in forgotten if shot.destination == "guide")
    assert list(result.destinations) == ["forget", "indirect", "adversarial"]
    for metric, destinations in result.destinations.items():
        asked = [shot.destination for shot in result.images if shot.probe.metric == metric]
        assert destinations == {"cat": {place: asked.count(place) for place in asked}}
        assert sum(result.destinations_before[metric]["cat"].values()) == len(asked)
    answer = found.as_dict()["erasers"]["mine"]
    assert {"forget": answer["went"], **answer["went_by"]} == result.destinations
    rows = read_verdicts(tmp_path / "out" / "verdicts" / "mine.parquet")
    assert len(rows) == len({shot.probe.job for shot in result.images}) * len(WORLD)


def test_calibration_is_measured_on_the_unedited_model(
    tiny_model: Model, eraser: efface.Eraser, tmp_path: Path
) -> None:
    found = run(tiny_model, {"mine": eraser}, tmp_path / "out")
    named = [s for s in found.erasers[BASE].images if s.probe.metric in ("forget", "retain", "adjacent")]
    assert found.judge.recall is not None
    assert found.judge.recall.value == pytest.approx(np.mean([shot.shows is True for shot in named]))
    assert found.judge.false_positive_rate is not None
    assert found.judge.false_positive_rate.n == len(named)


def test_same_numbers_again_and_base_images_only_once(
    tiny_sd: Path, tiny_model: Model, eraser: efface.Eraser, tmp_path: Path
) -> None:
    first = run(tiny_model, {"mine": eraser}, tmp_path / "one")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}
    assert len(made) == len({shot.probe.job for shot in first.erasers[BASE].images})
    second = run(efface.open_model(tiny_sd), {"mine": eraser}, tmp_path / "two")
    assert json.dumps(first.as_dict()["erasers"]) == json.dumps(second.as_dict()["erasers"])
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.png")}
    for path in (tmp_path / "one" / "images").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_images_read_the_text_as_the_erasers_did(tiny_model: Model, tmp_path: Path) -> None:
    skipping = efface.erase(tiny_model, REQUEST.model_copy(update={"clip_skip": 1}))
    found = run(tiny_model, {"mine": skipping}, tmp_path / "out")
    assert found.provenance["sampling"]["clip_skip"] == 1
    for name in (BASE, "mine"):
        assert {image.row["clip_skip"] for image in read_folder(tmp_path / "out" / "images" / name)} == {1}


def test_errors_are_never_absence(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    found = run(tiny_model, {"mine": eraser}, tmp_path / "out", Strongest(fails=True))
    result = found.erasers["mine"]
    failed = [shot for shot in result.images if shot.error]
    assert 0 < result.errors == len(failed) < len(result.images)
    assert sum(rate.n for metric, rate in result.metrics.items() if metric != "err") == len(result.images) - len(failed)
    assert result.destinations["forget"]["cat"].get("error", 0) == sum(shot.probe.metric == "forget" for shot in failed)
    assert found.errors == result.errors + found.erasers[BASE].errors


def test_several_erasers_stand_side_by_side(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    other = efface.erase(tiny_model, "car", to="dog")
    found = run(tiny_model, {"one": eraser, "two/../x": other}, tmp_path / "out")
    assert list(found.erasers) == [BASE, "one", "two/../x"]
    assert {"forget", "adversarial"} == found.erasers["two/../x"].metrics.keys(), (
        "what its request does not name is not probed"
    )
    assert {path.name for path in (tmp_path / "out" / "images").iterdir()} == {"base", "one", "two-..-x"}


def test_the_unedited_models_images_went_where_they_went_whichever_eraser_comes_last(
    tiny_model: Model, tmp_path: Path
) -> None:
    erasers = {guide: efface.erase(tiny_model, "cat", guide) for guide in ("dog", "car")}
    there, back = (
        run(tiny_model, dict(order), tmp_path / str(k)).erasers[BASE]
        for k, order in enumerate((erasers.items(), reversed(erasers.items())))
    )
    assert there.destinations["forget"] == back.destinations["forget"]
    assert "guide" not in there.destinations["forget"]["cat"], "the two erasers do not agree on one"
    assert there.destinations["forget"]["cat"].get("other", 0) > 0
    assert there.metrics["forget"].n == back.metrics["forget"].n == 8


def test_the_answer_is_json_as_promised(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    answer = json.loads(json.dumps(run(tiny_model, {"mine": eraser}, tmp_path / "out").as_dict(), allow_nan=False))
    assert answer["protocol"] == "err"
    assert {"name", "version", "recall", "false_positive_rate"} <= answer["judge"].keys()
    assert answer["erasers"].keys() == {"base", "mine"}
    assert answer["erasers"]["mine"]["metrics"]["forget"].keys() == {"value", "low", "high", "n"}


def test_bad_input(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rename"):
        run(tiny_model, {"base": eraser}, tmp_path / "out")
    with pytest.raises(BadInput, match="rename"):
        run(tiny_model, {"a b": eraser, "a/b": eraser}, tmp_path / "out")
    with pytest.raises(BadInput, match="at least one"):
        run(tiny_model, {}, tmp_path / "out")
    with pytest.raises(BadInput, match="'strongest' cannot recognise 'house'"):
        run(tiny_model, {"mine": efface.erase(tiny_model, "house")}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_pictures() -> None:
    rng = np.random.default_rng(0)
    assert is_broken(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert is_broken(np.full((64, 64, 3), 200, np.uint8))
    pixel_art = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    assert not is_broken(pixel_art)
    lines = np.full((64, 64, 3), 255, np.uint8)
    lines[::8], lines[:, ::8] = 0, 0
    assert not is_broken(lines)


def test_it_is_in_the_registry() -> None:
    assert PROTOCOLS.get("err") is ENTRY
    assert (ENTRY.n, ENTRY.least, ENTRY.attacked) == (100, 2, True)


class OpenWorld(Strongest):
    """Knows no peers, as a vision-language model does."""

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()


def test_a_judge_of_any_words_has_false_positives_too(tiny_model: Model, eraser: efface.Eraser, tmp_path: Path) -> None:
    found = run(tiny_model, {"mine": eraser}, tmp_path / "out", OpenWorld())
    closed = run(tiny_model, {"mine": eraser}, tmp_path / "closed")
    assert found.judge.false_positive_rate is not None
    assert found.judge.false_positive_rate == closed.judge.false_positive_rate
    assert found.erasers["mine"].destinations["forget"] == closed.erasers["mine"].destinations["forget"]
