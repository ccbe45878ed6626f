"""The adversarial part: given prompts, else attacks within the same budget, on other seeds than what is measured."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import efface
from efface.attacks import ATTACKS, Attack
from efface.attacks.search import AWAY
from efface.errors import BadInput
from efface.generation import Job, Sampling, read_folder
from efface.judges.base import Pixels, Scores
from efface.metrics.rates import wilson
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Calibration, Evaluation, Result
from efface.protocols.run import run_protocol
from efface.request.record import Concept, Request
from efface.settings import Settings
from support import StubJudge

SAMPLING = Sampling("ddim", 2, 3.0)
REQUEST = Request(
    concepts=(Concept(name="cat", guide="dog"), Concept(name="car", adversarial=("blue star",))), preserve=("a dog",)
)


class Redness(StubJudge):
    """Finds everything in what is rather red."""

    name, version = "redness", "1"

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return np.repeat(images[..., :1].mean(axis=(1, 2)) / 255, len(concepts), axis=1)


def run(model: Model, out: Path, n: int = 16, attacks: Sequence[str] | None = None) -> Evaluation:
    eraser = efface.erase(model, REQUEST)
    entry = PROTOCOLS.get("err")
    return run_protocol(entry, model, {"mine": eraser}, Redness(), out=out, n=n, sampling=SAMPLING, attacks=attacks)


def adversarial(result: Result, concept: str) -> list[str | None]:
    shots = result.images
    return [s.probe.attack for s in shots if s.probe.metric == "adversarial" and s.probe.concept == concept]


def test_given_prompts_come_first_and_attacks_stand_in(tiny_model: Model, tmp_path: Path) -> None:
    found = run(tiny_model, tmp_path / "out")
    result = found.erasers["mine"]
    assert adversarial(result, "car") == [None] * 8
    assert sorted(filter(None, adversarial(result, "cat"))) == ["embedding_shift"] * 2 + ["random_prefix"] * 2
    assert {name: rate.n for name, rate in result.attacks.items()} == {
        "prompts": 8,
        "random_prefix": 2,
        "embedding_shift": 2,
    }
    assert result.metrics["adversarial"].n == 12
    assert result.base["adversarial"].n == 12, "the unedited model draws what the attacks found"
    assert found.provenance["attacks"].keys() == {"random_prefix", "embedding_shift"}
    assert json.loads(json.dumps(found.as_dict()))["erasers"]["mine"]["attacks"].keys() == result.attacks.keys()


def test_search_and_measurement_share_the_budget_and_no_seed(tiny_model: Model, tmp_path: Path) -> None:
    result = run(tiny_model, tmp_path / "out").erasers["mine"]
    searched = [int(image.row["seed"]) for image in read_folder(tmp_path / "out" / "searches" / "mine")]
    assert len(searched) + len(adversarial(result, "cat")) == 8
    assert min(searched) >= AWAY
    assert all(shot.probe.job.seed < AWAY for shot in result.images)
    seeds = [s.probe.job.seed for s in result.images if s.probe.metric == "adversarial" and s.probe.concept == "cat"]
    assert len(set(seeds)) == len(seeds)


def test_chosen_attacks_stand_in_for_given_prompts_too(tiny_model: Model, tmp_path: Path) -> None:
    result = run(tiny_model, tmp_path / "out", attacks=["random_prefix"]).erasers["mine"]
    assert set(result.attacks) == {"random_prefix"}
    assert adversarial(result, "car") == ["random_prefix"] * 4
    none = run(tiny_model, tmp_path / "none", attacks=[]).erasers["mine"]
    assert "adversarial" not in none.metrics
    with pytest.raises(BadInput, match="Unknown attack 'magic'"):
        run(tiny_model, tmp_path / "other", attacks=["magic"])


def test_too_few_images_for_chosen_attacks_are_refused(tiny_model: Model, tmp_path: Path) -> None:
    for n, chosen in ((3, ["random_prefix"]), (7, ["random_prefix", "embedding_shift"])):
        with pytest.raises(BadInput, match=rf"{', '.join(chosen)}; ask for at least {n + 1} \(-n {n + 1}\)"):
            run(tiny_model, tmp_path / "out", n=n, attacks=chosen)
    assert not (tmp_path / "out").exists()
    result = run(tiny_model, tmp_path / "out", n=4, attacks=["random_prefix"]).erasers["mine"]
    assert result.attacks["random_prefix"].n == 2


def test_too_few_images_to_search_leave_the_rate_out(tiny_model: Model, tmp_path: Path) -> None:
    result = run(tiny_model, tmp_path / "out", n=2).erasers["mine"]
    assert set(result.attacks) == {"prompts"}
    assert not (tmp_path / "out" / "searches").exists()


def test_an_attack_that_fails_is_an_error_and_no_rate(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Job]:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(ATTACKS._entries, "failing", Attack("failing", "", "", "", Settings, lambda config: 1, fail))
    found = run(tiny_model, tmp_path / "out", attacks=["failing"])
    result = found.erasers["mine"]
    assert "adversarial" not in result.metrics
    assert result.attacks == {}
    assert "err" not in result.metrics, "a mean of the other rates would gain by the failure"
    assert result.err_parts == ()
    assert found.ranking == ()
    failed = [shot for shot in result.images if shot.error]
    assert result.errors == found.errors == len(failed) == 8
    assert {shot.error for shot in failed} == {"the attack failing failed: RuntimeError: out of memory"}
    assert found.erasers[BASE].errors == 0


def test_equal_scores_are_ranked_by_the_change_of_weights() -> None:
    def result(err: int, change: float | None) -> Result:
        return Result({"err": wilson(err, 10)}, weight_change=change)

    results = {
        BASE: result(10, 0.0),
        "large": result(8, 2e-6),
        "guard": result(8, None),
        "small": result(8, 1e-6),
        "best": result(9, 1.0),
        "unscored": Result({}),
    }

    def ranking() -> tuple[str, ...]:
        return Evaluation("err", Calibration("", "", None, None), results, {}, overall="err").ranking

    assert ranking() == ("best", "small", "large", "guard")
    results["small"] = replace(results["small"], err_parts=("forget", "retain", "adversarial"))
    assert ranking() == (), "means of different rates cannot be ranked"
