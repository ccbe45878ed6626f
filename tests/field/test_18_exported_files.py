"""Written files have no local path in them, and end as files of their format do."""

from dataclasses import replace
from pathlib import Path

import pytest

import efface
from efface import BadInput, Eraser, open_model
from efface.files import public_name


@pytest.mark.parametrize("format", ["lora", "kohya", "uce", "esd", "single-file", "diffusers"])
def test_no_file_contains_the_path_of_the_model(tiny_sd: Path, tmp_path: Path, format: str) -> None:
    eraser = efface.erase(str(tiny_sd), "cat", "dog")
    suffix = {"esd": ".pt", "diffusers": ""}.get(format, ".safetensors")
    start = str(tmp_path / "private" / "start.safetensors")
    secret = replace(eraser, provenance={**eraser.provenance, "target_ckpt": start})
    path = tmp_path / f"exported{suffix}"
    efface.export(secret, format, path, model=str(tiny_sd))
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix == ".json"]:
        content = file.read_bytes()
        assert str(tiny_sd).encode() not in content
        assert str(tmp_path).encode() not in content


def test_an_erasers_file_names_the_model_without_its_folder(tiny_sd: Path, tmp_path: Path) -> None:
    efface.erase(open_model(tiny_sd), "cat", "dog").save(tmp_path / "one.safetensors")
    efface.erase(tiny_sd, "cat", "dog").save(tmp_path / "two.safetensors")
    for name in ("one", "two"):
        assert str(tiny_sd.parent).encode() not in (tmp_path / f"{name}.safetensors").read_bytes()
        assert Eraser.load(tmp_path / f"{name}.safetensors").base.model == tiny_sd.name


def test_names_that_are_no_paths_stay(tmp_path: Path) -> None:
    for name in ("CompVis/stable-diffusion-v1-4", "emoji", "a cat/dog", "x" * 5000, "a\0b"):
        assert public_name(name) == name
    assert public_name(str(tmp_path / "model.safetensors")) == "model.safetensors"
    assert public_name("~/models/sd") == "sd"


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x", "x.safetensors.bin"])
@pytest.mark.parametrize("format", ["lora", "kohya", "uce", "single-file"])
def test_a_file_is_not_written_under_the_name_of_another_format(
    tiny_sd: Path, tmp_path: Path, name: str, format: str
) -> None:
    eraser = efface.erase(tiny_sd, "cat", "dog")
    with pytest.raises(BadInput, match=r"\.safetensors file under another name"):
        efface.export(eraser, format, tmp_path / name, model=tiny_sd)
    with pytest.raises(BadInput, match=r"\.safetensors file under another name"):
        eraser.save(tmp_path / name)
    with pytest.raises(BadInput, match=r"\.pt file under another name"):
        efface.export(eraser, "esd", tmp_path / "x.safetensors", model=tiny_sd)
    assert not list(tmp_path.iterdir())
