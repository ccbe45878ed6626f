"""Erasers against each other, on a tiny model and on answers that are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import efface
from efface.generation import Job, Sampling
from efface.models import Model
from efface.protocols import PROTOCOLS, Evaluation, JudgedImage, Probe, Result
from efface.protocols.counting import comparisons
from efface.protocols.plan import Count, right_answers
from efface.protocols.run import run_protocol
from efface.request.record import Concept, Request

QUICK = Sampling("ddim", 2, 3.0)
WORLD = ("cat", "dog", "car")
REQUEST = Request(concepts=(Concept(name="cat", guide="dog"),), preserve=("a car",))
FORGET: dict[str, Count] = {"forget": right_answers("forget")}


def result(found: Sequence[bool | None], prompts: int = 3, **probe: Any) -> Result:
    jobs = [Job(f"a cat {k % prompts}", seed=k) for k in range(len(found))]
    pairs = zip(jobs, found, strict=True)
    images = [JudgedImage(Probe("forget", "cat", job, **probe), None, shows, 0.5) for job, shows in pairs]
    return Result({}, images=tuple(images))


def compared(**results: Result) -> list[tuple[str, str]]:
    return [(found.first, found.second) for found in comparisons(results, dict.fromkeys(results, FORGET))]


def check(evaluation: Evaluation, first: str, second: str, metrics: set[str]) -> None:
    """The comparison of two erasers follows from their shots alone."""
    printed = {found.metric: found.difference for found in evaluation.comparisons if found.second == second}
    assert printed.keys() == metrics
    for metric, difference in printed.items():
        one, other = (
            {(s.probe.concept, s.probe.job): s for s in evaluation.erasers[name].images if s.probe.metric == metric}
            for name in (first, second)
        )
        pairs = [(one[key].right, other[key].right) for key in one.keys() & other.keys()]
        gained, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
        expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert difference.p == pytest.approx(expected)
        assert difference.n == len(pairs) > 0
        assert difference.value == pytest.approx(np.mean([b - a for a, b in pairs]))
        assert difference.low <= difference.value <= difference.high


@pytest.fixture
def erasers(tiny_model: Model) -> dict[str, efface.Eraser]:
    return {"weak": efface.erase(tiny_model, REQUEST, erase_scale=0.1), "strong": efface.erase(tiny_model, REQUEST)}


def test_err_compares_what_both_drew(
    tiny_model: Model, erasers: dict[str, efface.Eraser], colours: Any, tmp_path: Path
) -> None:
    entry, judge = PROTOCOLS.get("err"), colours(*WORLD)
    found = run_protocol(entry, tiny_model, erasers, judge, out=tmp_path / "out", n=12, sampling=QUICK)
    assert "adversarial" in found.erasers["weak"].metrics, "by attacks, whose prompts are each eraser's own"
    check(found, "weak", "strong", {"forget", "retain"})
    assert found.as_dict()["comparisons"][0] == {
        "first": "weak",
        "second": "strong",
        "metric": "forget",
        **found.comparisons[0].difference.as_dict(),
    }


def test_planned_protocols_compare_too(
    tiny_model: Model, erasers: dict[str, efface.Eraser], colours: Any, tmp_path: Path
) -> None:
    options = {"classes": "cat,dog,car"}
    entry, judge = PROTOCOLS.get("imagenette"), colours(*WORLD)
    erasers |= {"other": efface.erase(tiny_model, "car", to="dog")}
    found = run_protocol(entry, tiny_model, erasers, judge, out=tmp_path / "out", n=6, sampling=QUICK, options=options)
    own = {"forget", "retain", "accuracy_erased", "accuracy_others"}
    by_class = {f"accuracy_{name}" for name in WORLD}
    rows = {pair: {} for pair in (("weak", "strong"), ("weak", "other"), ("strong", "other"))}
    for row in found.comparisons:
        rows[row.first, row.second][row.metric] = row.difference
    assert rows["weak", "strong"].keys() == own | by_class
    # Of another concept, only what both ask as the same rate.
    assert rows["weak", "other"].keys() == {"retain", "accuracy_others"} | by_class
    assert rows["weak", "other"]["retain"].n == 6
    assert rows["weak", "strong"]["accuracy_erased"].value == -rows["weak", "strong"]["forget"].value


def test_only_pairs_with_two_answers_count() -> None:
    first, second = result([True, True, None, False]), result([False, None, True, False])
    (found,) = comparisons({"a": first, "b": second}, dict.fromkeys("ab", FORGET))
    assert (found.difference.value, found.difference.n, found.difference.p) == (0.5, 2, 1.0)
    assert compared(a=result([None]), b=result([True])) == []


def test_the_interval_goes_by_prompt() -> None:
    # All images of one prompt change together: five prompts are five draws, however many images they have.
    first, second = (result([k % 5 == 0 and same for k in range(50)], prompts=5) for same in (True, False))
    (found,) = comparisons({"a": first, "b": second}, dict.fromkeys("ab", FORGET))
    assert found.difference.p == pytest.approx(2 * 0.5**10)
    assert (found.difference.low, found.difference.value) == (0.0, 0.2)


def test_of_more_than_four_each_is_compared_with_the_first() -> None:
    four = {name: result([True, False]) for name in "abcd"}
    assert compared(**four) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert compared(**four, e=four["a"]) == [("a", name) for name in "bcde"]
    assert compared(a=four["a"]) == []


def test_prompts_that_attacks_found_are_nobody_elses() -> None:
    assert compared(a=result([True]), b=result([True], attack="random_prefix")) == []
    assert compared(a=result([True]), b=result([True])) == [("a", "b")]


def test_rates_that_are_neither_yes_nor_no_are_left_out() -> None:
    results = {"a": result([True, False]), "b": result([False, False])}
    halves: dict[str, Count] = {"half": lambda shot: shot.right / 2, **FORGET}
    (found,) = comparisons(results, dict.fromkeys(results, halves))
    assert (found.metric, found.difference.value) == ("forget", 0.5)
