"""A verdict follows the intervals, and states how many images decide it; no interval has width 0."""

import re
from dataclasses import replace

import numpy as np
import pytest

from efface.attacks.attempts import AttackResult, Attempt
from efface.errors import BadInput
from efface.metrics.base import Measured
from efface.metrics.bootstrap import mean_with_interval
from efface.metrics.cmmd import cmmd, cmmd_statistic
from efface.metrics.features import Features
from efface.metrics.fid import fid, fid_statistic
from efface.metrics.kid import kid, kid_statistic
from efface.metrics.paired import paired_distances, paired_scores
from efface.metrics.rates import paired_difference, wilson
from efface.protocols import Result
from efface.report.attack_headline import attack_headline
from efface.report.headline import headline_of


def features(values: list[list[float]], prompts: tuple[str, ...] | None = None) -> Features:
    return Features(np.array(values), "x", prompts)


NOISE = np.random.default_rng(0).normal(size=(9, 4)).tolist()


def measured(rate: float, n: int) -> Measured:
    return wilson(round(rate * n), n)


def change(lost: float, n: int) -> Measured:
    """The paired difference if a share of n images is lost and, to make noise, 4% are swapped."""
    swapped = max(1, round(0.02 * n))
    before = [1.0] * (n - swapped) + [0.0] * swapped
    after = [0.0] * (round(lost * n) + swapped) + [1.0] * (n - round(lost * n) - swapped)
    return paired_difference([before], [after])


def result(n: int, forget: float = 1.0, lost: float = 0.0, **further: float) -> Result:
    """An evaluation of one concept with n images, half as many for the further rates."""
    metrics = {"forget": measured(forget, n)} | {name: measured(rate, n // 2) for name, rate in further.items()}
    went = {
        metric: {"cat": {"concept": rate.n - round(rate.value * rate.n), "guide": round(rate.value * rate.n)}}
        for metric, rate in metrics.items()
    }
    return Result(metrics, change={"retain": change(lost, n)}, destinations=went)


def test_four_images_decide_nothing():
    wide = Result({"forget": Measured(1.0, 0.51, 1.0, 4)}, {"retain": Measured(0.0, -0.49, 0.49, 4)})
    found = headline_of(["cat"], wide)
    assert found.tone == "mixed"
    assert found.text.startswith("Cannot tell yet whether “cat” is forgotten: n is too small, about ")


@pytest.mark.parametrize("n", [4, 10, 20])
@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"forget": 0.95},
        {"forget": 0.9, "lost": 0.1},
        {"forget": 0.8},
        {"forget": 0.75, "lost": 0.05},
        {"indirect": 0.9},
        {"adversarial": 0.6},
        {"indirect": 1.0, "adversarial": 1.0, "lost": 0.2},
    ],
)
def test_the_number_of_images_that_a_verdict_asks_for_decides_it(n, rates):
    text = ""
    for _ in range(4):  # rounding to whole images may change the rates once or twice
        text = headline_of(["cat"], result(n, **rates)).text
        if "annot tell yet" not in text:
            break
        found = re.search(r"about (\d+) images would do", text)
        assert found
        assert int(found[1]) > n
        n = int(found[1])
    assert "annot tell yet" not in text


def test_at_the_number_of_images_asked_for_the_same_rates_are_decided():
    text = headline_of(["cat"], result(20)).text
    found = re.search(r"about (\d+)", text)
    assert found
    n = int(found[1])
    assert headline_of(["cat"], result(n)).text == "Forgot “cat” and retained the rest"


def test_the_worst_kind_of_prompt_decides():
    for kind in ("indirect", "adversarial"):
        found = headline_of(["cat"], result(200, **{kind: 0.5}))
        assert (found.tone, found.text) == (
            "bad",
            f"Did not forget “cat” under {kind} prompts but retained the rest",
        )
    found = headline_of(["cat"], result(200, indirect=0.87, adversarial=1.0))
    assert (found.tone, found.text) == (
        "mixed",
        "Mostly forgot “cat” under indirect prompts but retained the rest",
    )


def test_a_kind_of_prompt_with_too_few_images_is_named():
    few = replace(result(200), metrics={"forget": measured(1, 200), "adversarial": measured(1, 8)})
    found = headline_of(["cat"], few)
    assert found.tone == "mixed"
    assert re.fullmatch(
        "Forgot “cat” and retained the rest; cannot tell yet for adversarial prompts: n is too small, "
        r"about \d+ images would do",
        found.text,
    )


def test_a_rest_that_may_be_damaged_is_not_retained():
    wide = replace(result(200), change={"retain": Measured(-0.01, -0.2, 0.1, 200)})
    found = headline_of(["cat"], wide)
    assert found.tone == "mixed"
    assert "Forgot “cat”; cannot tell yet for the rest" in found.text


def attempts(successes: int, n: int) -> AttackResult:
    return AttackResult(tuple(Attempt("a cat", k, False, k < successes, fresh=False) for k in range(n)))


@pytest.mark.parametrize(
    ("shown", "successes", "n", "text"),
    [
        (0, 0, 40, "Cannot tell: without an eraser, these prompts show “cat” in none of 40 images"),
        (10, 0, 40, "Cannot tell: without an eraser, these prompts show “cat” in 25% of 40 images"),
        (
            *(8, 0, 8),
            "Cannot tell yet whether the attack brings “cat” back: n is too small, about 35 prompts would do",
        ),
        (40, 0, 40, "The attack does not bring “cat” back"),
        (40, 30, 40, "The attack brings “cat” back"),
    ],
)
def test_an_attack_has_a_verdict_only_where_the_concept_can_come_back(shown, successes, n, text):
    assert attack_headline("cat", wilson(shown, n), attempts(successes, n)).text == text


@pytest.mark.parametrize("clusters", [[[0.0] * 50], [[0.0], [0.0]], [[3.5, 3.5], [3.5]]])
def test_equal_scores_and_counts_of_zero_have_an_interval(clusters):
    n = sum(map(len, clusters))
    mean = mean_with_interval(clusters, "x")
    assert 0 <= mean.low <= mean.value < mean.high
    same = paired_scores(clusters, clusters)
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high
    assert 3.8 / (n + 3.9) <= same.high <= 1


@pytest.mark.parametrize("measure", [kid, cmmd, fid])
@pytest.mark.filterwarnings("ignore:FID of")
def test_a_set_and_itself_have_an_interval(measure):
    for prompts in (None, tuple("abcdefghi")):
        distance = measure(features(NOISE, prompts), features(NOISE, prompts), draws=50)
        assert distance.low < distance.high


@pytest.mark.parametrize("statistic", [kid_statistic(), cmmd_statistic, fid_statistic])
def test_an_eraser_that_changes_nothing_has_an_interval(statistic):
    same = paired_distances(statistic, features(NOISE), features(NOISE), features(NOISE[:5]), draws=50)
    assert same.value == 0
    assert same.low < same.high


@pytest.mark.parametrize("n", [2, 3])
def test_too_few_different_images_have_no_distance(n):
    alike = features([[1.0, 2.0]] * n)
    with pytest.raises(BadInput, match="too few of them differ"):
        kid(alike, alike, draws=50)
    if n == 2:
        with pytest.raises(BadInput, match="too few of them differ"):
            kid(features(NOISE[:2]), features(NOISE[2:4]), draws=50)
