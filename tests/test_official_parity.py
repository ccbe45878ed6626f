"""The benchmark that compares a step of efface with the record of an official script; here efface made the record."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from efface import open_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_a_step_is_compared_with_a_record(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    esd = importlib.import_module("official.esd")

    script = replace(esd.SCRIPTS[0], model=tiny_sd.name, train_method="esd-x-strict")
    model, noise = open_model(tiny_sd), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    record: dict[str, Any] = {"noise": noise, "x": noise, "index": torch.tensor(2), "steps": torch.tensor(1)}
    step = esd.efface_step(script, model, record)
    saved = {name.removeprefix("weight."): tensor for name, tensor in step.items() if name.startswith("weight.")}
    assert len(saved) > 3
    record |= {name: tensor for name, tensor in step.items() if not name.startswith("weight.")}

    row = esd.compare(script, model, step, record, saved)
    assert (row.index, row.same, row.parameters) == (2, len(saved), len(saved))
    assert (row.timestep, row.x, row.target, row.loss, row.gradient, row.weights, row.turned) == (0,) * 7
    assert esd.relative(step["x"], noise) > 0.1

    name = next(iter(saved))
    record |= {"x": -record["x"], "target": 2 * record["target"], f"gradient.other.{name}": torch.zeros(1)}
    saved[name] = saved[name] + 1
    changed = esd.compare(script, model, step, record, saved)
    assert (changed.x, changed.target, changed.loss, changed.parameters) == (2, 0.5, 0, len(saved) + 1)
    assert changed.weights > 1e-2
    assert changed.turned > 0
    del record[f"gradient.{name}"]
    assert esd.compare(script, model, step, record, saved).same == -1
