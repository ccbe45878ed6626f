"""A protocol of another package: its report is as complete as that of a built-in one."""

import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface.generation import Job, Sampling
from efface.judges.base import Pixels, Scores
from efface.metrics.base import Measured
from efface.models import Model
from efface.protocols import EvaluationInput, Metric, Plan, Prepared, Probe, Protocol
from efface.protocols.plan import BeforeAfter, HarmonicMean, ScoredImages, right_answers
from efface.protocols.run import run_protocol
from efface.report import page
from support import StubJudge


class Alternating(StubJudge):
    """Says yes to every other image."""

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return np.array([[float(k % 2)] * len(concepts) for k in range(len(images))])


METRICS = (
    Metric("gone", "the breed is gone", axis="forgetting"),
    Metric("breed_BREED", "this breed is recognised", better="lower"),
    Metric("others", "other breeds are recognised", axis="retention"),
    Metric("barks", "number of barks", unit="barks", better="lower"),
    Metric("score", "mean of both"),
)


def measure(name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], tuple[()]]:
    return {"barks": BeforeAfter(Measured(3.0, 2.0, 4.0, 4, "score", "ears 1"))}, ()


def prepare(evaluation: EvaluationInput) -> Prepared:
    gone, others = right_answers("forget"), right_answers("retain")
    plans = {
        name: Plan(
            (
                *(Probe("forget", "poodle", Job(f"a poodle {k % 2}", k), "cat") for k in range(4)),
                *(Probe("retain", "husky", Job("a husky", k)) for k in range(4)),
            ),
            {"gone": gone, "others": others, "breed_husky": others, "mine": gone},
        )
        for name in evaluation.requests
    }
    return Prepared(plans, evaluation.judge, measure, overall=HarmonicMean("score", ("gone",)))


ENTRY = Protocol("dogs", "dogs by breed", "https://example.com", METRICS, prepare)


@pytest.fixture
def html(tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    erasers = {name: efface.erase(tiny_model, "cat", name) for name in ("dog", "car")}
    sampling = Sampling("ddim", 1)
    evaluation = run_protocol(ENTRY, tiny_model, erasers, Alternating(), out=tmp_path / "out", sampling=sampling)
    return page(evaluation)


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", " ", html, flags=re.S))).split())


def test_its_metrics_are_explained_in_its_own_words_and_order(html: str) -> None:
    text = text_of(html).split("Rates Grey is")[1]
    shown = [
        "gone the breed is gone",
        "breed_husky this breed is recognised; less is better",
        "others other breeds are recognised",
        "score mean of both",
        "mine",
        "Scores and distances",
        "barks number of barks; in barks; less is better",
    ]
    places = [text.index(words) for words in shown]
    assert places == sorted(places)


def test_its_axes_make_the_trade_off_and_the_headline(html: str) -> None:
    assert 'aria-label="gone against others' in html
    text = text_of(html)
    assert "Did the model forget “poodle”?" in text
    assert "#1 by score" in text
    figures: list[Any] = re.findall(r'<dl class="figures">(.*?)</dl>', html, flags=re.S)
    assert len(figures) == 2
    assert all(re.findall(r"<dt>([^<]*)</dt>", figure) == ["gone", "others", "score"] for figure in figures)
    assert "Prompted for “poodle”" in text
