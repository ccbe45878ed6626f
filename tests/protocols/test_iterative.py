"""Erasing and restoring over time: which eraser is attached after which event, and what is measured then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import efface
from efface import Eraser, Model
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import Judge
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.events import Event, default_events, erasers_after, read_events
from efface.protocols.run import run_protocol
from efface.report import write_report
from efface.report.timeline import timelines

SAMPLING = Sampling("ddim", 2, 3.0)
EVENTS = "erase cat; erase dog, horse; restore cat; restore dog, horse"


@pytest.fixture
def three(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "dog", "horse"], to=["boat", "house", "apple"])


def test_events_are_read_from_a_text_or_a_file(tmp_path: Path) -> None:
    events = read_events(EVENTS)
    assert events[1] == Event("erase", ("dog", "horse"))
    assert [str(event) for event in events] == EVENTS.split("; ")
    path = tmp_path / "events.txt"
    path.write_text("\n".join(EVENTS.split("; ")) + "\n\n")
    assert read_events(str(path)) == events
    assert [str(event) for event in default_events(("a", "b"))] == ["erase a", "erase b", "restore a"]
    assert [str(event) for event in default_events(("a",))] == ["erase a"]


def test_after_each_event_the_erased_concepts_are_attached(tiny_model: Model, three: Eraser) -> None:
    states = erasers_after("mine", three, read_events(EVENTS), tiny_model)
    assert list(states) == ["mine 1", "mine 2", "mine 3", "mine 4"]
    concepts = [state.concepts for state in states.values()]
    assert concepts == [("cat",), ("cat", "dog", "horse"), ("dog", "horse"), ()]
    assert states["mine 1"].hash == three.only("cat").hash
    assert states["mine 2"].hash == three.hash
    assert states["mine 3"].hash == three.without("cat").hash
    assert states["mine 4"].edits == ()
    assert [state.provenance["event"] for state in states.values()] == EVENTS.split("; ")


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ("erase cat; erase cat", "'cat' is erased already"),
        ("restore cat", "'cat' is not erased at that time"),
        ("erase bird", "needs an eraser of 'bird', but mine erases cat, dog, horse"),
        ("erase cat; forget dog", "'forget dog' is no event"),
        ("erase cat; erase ,", "'erase ,' is no event"),
        ("gone.txt", "Cannot read events from gone.txt"),
    ],
)
def test_events_that_are_not_possible(tiny_model: Model, three: Eraser, events: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        erasers_after("mine", three, read_events(events), tiny_model)


@pytest.fixture
def evaluation(tiny_model: Model, three: Eraser, tmp_path: Path, colours: Callable[..., Judge]) -> Evaluation:
    options = {"extractor": "emoji-clip", "others": "bird", "events": EVENTS}
    judge = colours("cat", "dog", "horse", "bird")
    return run_protocol(
        PROTOCOLS.get("iterative"),
        tiny_model,
        {"mine": three},
        judge,
        out=tmp_path / "out",
        n=3,
        sampling=SAMPLING,
        options=options,
    )


def test_the_numbers_of_each_concept_after_each_event(evaluation: Evaluation) -> None:
    assert list(evaluation.erasers) == [BASE, "mine 1", "mine 2", "mine 3", "mine 4"]
    names = ("cat", "dog", "horse", "bird")
    for name, result in evaluation.erasers.items():
        expected = {f"accuracy_{one}" for one in names}
        if name != BASE:
            expected |= {f"{kind}_{one}" for kind in ("distance", "kid") for one in names}
        assert result.metrics.keys() - {"forget", "retain"} == expected
    moved = {
        name: [evaluation.erasers[f"mine {time}"].metrics[f"distance_{name}"].value for time in (1, 2, 3, 4)]
        for name in ("cat", "dog")
    }
    assert moved["cat"][0] > 1e-6
    assert moved["dog"][1] > 1e-6
    assert moved["cat"][3] == pytest.approx(0, abs=1e-9)  # nothing is attached
    assert moved["dog"][3] == pytest.approx(0, abs=1e-9)
    metrics = [evaluation.erasers[f"mine {time}"].metrics for time in (1, 2, 3, 4)]
    assert [one["forget"].n if "forget" in one else 0 for one in metrics] == [3, 9, 6, 0]
    assert [one["retain"].n for one in metrics] == [9, 3, 6, 12]


def test_the_report_shows_them_over_time(evaluation: Evaluation, tmp_path: Path) -> None:
    figures = list(timelines(evaluation))
    assert [figure.metric for figure in figures] == ["accuracy", "distance", "kid"]
    accuracy = figures[0]
    assert list(accuracy.events) == EVENTS.split("; ")
    assert [line.concept for line in accuracy.lines] == ["cat", "dog", "horse", "bird"]
    assert [moment.erased for moment in accuracy.lines[0].moments] == [False, True, True, False, False]
    assert [moment.erased for moment in accuracy.lines[1].moments] == [False, False, True, True, False]
    assert all(0 <= moment.y <= accuracy.bottom for line in accuracy.lines for moment in line.moments)
    page = write_report(evaluation, tmp_path / "out").read_text(encoding="utf-8")
    assert page.count('<svg class="plot"') >= 3
    assert "<li>erase dog, horse</li>" in page
    document = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert document["provenance"]["erasers"]["mine 3"]["event"] == "restore cat"


def test_another_protocol_has_no_figure_over_time(
    tiny_model: Model, tmp_path: Path, colours: Callable[..., Judge]
) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog")
    judge = colours("cat", "dog")
    protocol = PROTOCOLS.get("err")
    evaluation = run_protocol(protocol, tiny_model, {"mine": eraser}, judge, out=tmp_path, n=2, sampling=SAMPLING)
    assert list(timelines(evaluation)) == []
    assert "Over time" not in write_report(evaluation, tmp_path).read_text(encoding="utf-8")
