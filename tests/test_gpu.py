"""The page of GPU memory is of its stored plans, and the benchmark for GPUs runs with tiny models on the CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded(path: Path) -> Any:
    name = f"{path.stem}_of_the_test"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_plans_and_marks_every_figure() -> None:
    module = loaded(ROOT / "docs" / "make_gpu.py")
    page = module.page()
    assert module.PAGE.read_text(encoding="utf-8") == page, "run python docs/make_gpu.py"
    rows = [line for line in page.splitlines() if line.startswith("| `efface")]
    assert len(rows) > 40
    assert all(", estimated |" in row or "not supported" in row for row in rows)
    assert {name for name in module.SIZES if f"## {name}," in page} == set(module.SIZES)


def test_the_benchmark_runs_with_tiny_models_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = loaded(ROOT / "benchmarks" / "gpu.py")
    rows = {row.work: row for row in module.of_model("FLUX.1 schnell", 64, "cpu", tiny=True)}
    assert list(rows) == [
        "uce", "train", "train with gradient checkpointing", "generate", "generate, NF4", "generate, fp8",
    ]  # fmt: skip
    # bitsandbytes is not among the packages of the tests.
    assert {work for work, row in rows.items() if row.seconds is None} <= {"generate, NF4"}
    assert all(row.peak is None and row.planned is None for row in rows.values())


def test_the_configurations_have_the_published_numbers_of_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from efface.models.memory import part_sizes
    from efface.models.storage.folder import Folder

    write_configs = loaded(ROOT / "benchmarks" / "published_models.py").write_configs
    found = {name: part_sizes(Folder(write_configs(name, tmp_path / name))) for name in ("SDXL", "SD3.5 medium")}
    assert found["SDXL"]["unet"].parameters / 1e9 == pytest.approx(2.567, abs=0.001)
    assert found["SD3.5 medium"]["transformer"].parameters / 1e9 == pytest.approx(2.243, abs=0.001)
    assert found["SD3.5 medium"]["text_encoder_3"].parameters / 1e9 == pytest.approx(4.762, abs=0.001)
