"""An evaluation with known numbers and pictures, as a protocol would give it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efface.generate import Job
from efface.metrics.rates import clustered_bootstrap, paired_difference, wilson
from efface.protocols import BASE, Calibration, Evaluation, Probe, Result, Shot

EvaluationMaker = Callable[..., Evaluation]


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluationMaker:
    """Makes an evaluation of one eraser; `concept` and `guide` are its words, `error` spoils one shot."""

    def make(concept: str = "cat", guide: str = "dog", error: str | None = None, erasers: int = 1) -> Evaluation:
        rng = np.random.default_rng(0)
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)

        def shot(name: str, index: int, metric: str, wanted: str) -> Shot:
            path = folder / f"{name}-{metric}-{index}.png"
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
            job = Job(f"a {wanted} in style {index % 3}", seed=index)
            probe = Probe(metric, wanted, job, guide if metric == "forget" else None)
            found = metric == "retain" or name == BASE or index == 0
            went = None if metric == "retain" else "concept" if found else "guide"
            return Shot(probe, path, found, 0.9 if found else 0.1, wanted if found else guide, went)

        def shots(name: str) -> tuple[Shot, ...]:
            return tuple(shot(name, i, m, w) for m, w in (("forget", concept), ("retain", "house")) for i in range(20))

        base, after = shots(BASE), shots("after")
        if error:
            after = (*after[:-1], replace(after[-1], found=None, score=float("nan"), error=error))
        forget = wilson(19, 20)
        result = Result(
            metrics={"forget": forget, "retain": wilson(20, 20)},
            change={"forget": paired_difference([[0] * 20], [[0] + [1] * 19]), "retain": wilson(0, 20)},
            base={"forget": wilson(0, 20), "retain": clustered_bootstrap([[1.0] * 20])},
            went={concept: {"concept": 1, "guide": 19, "other": 0, "nothing": 0, "broken": 0, "error": 0}},
            errors=int(error is not None),
            shots=after,
        )
        names = ["eraser", "second"][:erasers]
        return Evaluation(
            protocol="err",
            judge=Calibration("emoji", "1", wilson(39, 40), wilson(0, 40)),
            results={
                BASE: Result({"forget": wilson(0, 20), "retain": wilson(20, 20)}, shots=base),
                **dict.fromkeys(names, result),
            },
            provenance={"model": {"name": "emoji", "hash": "abc"}, "erasers": {n: {"method": "uce"} for n in names}},
        )

    return make
