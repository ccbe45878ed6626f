"""An evaluation with known numbers and pictures, as a protocol would give it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from efface.generation import Job
from efface.metrics.base import Measured
from efface.metrics.rates import harmonic_mean, paired_difference, wilson
from efface.protocols import BASE, Calibration, Evaluation, JudgedImage, Probe, Result
from efface.protocols.counting import comparisons
from efface.protocols.err import ENTRY
from efface.protocols.plan import right_answers

EvaluationMaker = Callable[..., Evaluation]

IMAGES = 20
#: Images of 20 in which each eraser lets the concept through, and in which it loses the rest.
THROUGH, LOST = (1, 9, 0, 19, 3, 2, 5), (0, 1, 8, 0, 4, 2, 3)
ERASERS = ("eraser", "second", "third", "fourth", "fifth", "sixth", "seventh")


def draw(path: Path, word: str, seed: int) -> None:
    """A round thing on a plain ground, in colours that follow from a word and a seed."""
    rng = np.random.default_rng([seed, *word.encode()])
    ground, thing = (tuple(rng.integers(60, 250, 3).tolist()) for _ in range(2))
    picture = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(picture).ellipse((8, 12, 56, 56), thing, "black", 2)
    picture.save(path)


def shots_of(folder: Path, name: str, concept: str, guide: str, through: int, lost: int) -> tuple[JudgedImage, ...]:
    """20 images prompted for the concept, 20 for a house; the first of them fail."""

    def shot(metric: str, wanted: str, index: int) -> JudgedImage:
        erased = metric == "forget"
        found = index < through if erased else index >= lost
        seen = wanted if found else guide if erased else None
        path = folder / f"{name}-{metric}-{index}.png"
        draw(path, str(seen), index)
        went = None if not erased else "concept" if found else "guide"
        probe = Probe(metric, wanted, Job(f"a {wanted} in style {index % 3}", seed=index), guide if erased else None)
        return JudgedImage(probe, path, found, 0.5 + (index + 1) / 50 if found else index / 100, seen, went)

    return tuple(shot(m, w, i) for m, w in (("forget", concept), ("retain", "house")) for i in range(IMAGES))


def result_of(shots: tuple[JudgedImage, ...], concept: str, **other: Any) -> Result:
    """The rates of shots, beside an unedited model that draws all that it is asked for."""
    groups = {metric: [s.right for s in shots if s.probe.metric == metric and s.shows is not None] for metric in RATES}
    rates = {metric: wilson(int(sum(good)), len(good)) for metric, good in groups.items()}
    change = {m: paired_difference([[float(m == "retain")] * len(good)], [good]) for m, good in groups.items()}
    places = [s.destination for s in shots if s.destination]
    return Result(
        metrics={**rates, "err": harmonic_mean([[good] for good in groups.values()])},
        change=change,
        base={"forget": wilson(0, IMAGES), "retain": wilson(IMAGES, IMAGES)},
        destinations={"forget": {concept: {p: places.count(p) for p in ("concept", "guide", "other", "error")}}},
        errors=sum(s.error is not None for s in shots),
        images=shots,
        **other,
    )


RATES = ("forget", "retain")


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluationMaker:
    """Makes an evaluation: of `concept` erased towards `guide`, by so many erasers.

    `error` spoils the last image of the first eraser, the judge is `undecided` about so many before it, and `distances`
    gives scores of two feature extractors.
    """

    def make(
        concept: str = "cat",
        guide: str = "dog",
        error: str | None = None,
        erasers: int = 1,
        undecided: int = 0,
        distances: bool = False,
    ) -> Evaluation:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        base = shots_of(folder, BASE, concept, guide, IMAGES, 0)
        names = ERASERS[:erasers]
        results = {BASE: replace(result_of(base, concept), base={}, change={})}
        for name, through, lost in zip(names, THROUGH, LOST, strict=False):
            shots = list(shots_of(folder, name, concept, guide, through, lost))
            if name == ERASERS[0]:
                for place in range(1, undecided + 1):
                    shots[-1 - place] = replace(shots[-1 - place], shows=None, score=0.5)
                if error:
                    shots[-1] = replace(shots[-1], shows=None, score=float("nan"), error=error)
            results[name] = result_of(tuple(shots), concept)
        if distances:
            results = {name: with_distances(result, place) for place, (name, result) in enumerate(results.items())}
        return Evaluation(
            protocol="err",
            judge=Calibration("emoji", "1", wilson(39, 40), wilson(0, 40)),
            erasers=results,
            provenance={"model": {"name": "emoji", "hash": "abc"}, "erasers": {n: {"method": "uce"} for n in names}},
            comparisons=comparisons(results, {name: {rate: right_answers(rate) for rate in RATES} for name in names}),
            metrics=ENTRY.metrics,
            overall="err",
        )

    return make


def with_distances(result: Result, place: int) -> Result:
    """The same with values of two feature extractors, and a paired change of one."""
    was, now = (Measured(30.5 - k, 30.0 - k, 31.0 - k, 40, "score", "clip-b32") for k in (0, place))
    less = Measured(-place, -place - 1, -place + 1, 40, "score", "clip-b32", "paired bootstrap, p=0.01")
    scores = {"clip_score": now if place else was}
    scores["clip_accuracy"] = Measured(0.9, 0.8, 1.0, 40, "score", "clip-b32")
    if place:
        scores["kid"] = Measured(0.01 * place, -0.001, 0.02 * place, 40, "score", "efficientnet-1", "against 40 images")
    changes, before = ({"clip_score": less}, {"clip_score": was}) if place else ({}, {})
    return replace(
        result,
        metrics={**result.metrics, **scores},
        change={**result.change, **changes},
        base={**result.base, **before},
    )
