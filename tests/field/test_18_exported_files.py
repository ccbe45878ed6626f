"""Written files have no local path in them, end as files of their format do, have the chosen type, and are streamed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import load_file

import efface
from efface import BadInput, Eraser, Runtime, open_model
from efface.files import public_name
from efface.models.storage.folder import read_tensors


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


FORMATS = {"lora": ".safetensors", "kohya": ".safetensors", "uce": ".safetensors", "esd": ".pt"}
FORMATS |= {"single-file": ".safetensors", "diffusers": ""}


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    if path.is_dir():
        return load_file(path / "unet" / "diffusion_pytorch_model.safetensors")
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bf16", "float32"])
def test_the_type_of_exported_tensors(tiny_sd: Path, tmp_path: Path, format: str, dtype: str) -> None:
    eraser, expected = efface.erase(tiny_sd, "cat", "dog"), getattr(torch, {"bf16": "bfloat16"}.get(dtype, dtype))
    plain, typed = (tmp_path / f"{name}{FORMATS[format]}" for name in ("plain", "typed"))
    efface.export(eraser, format, plain, model=tiny_sd)
    efface.export(eraser, format, typed, model=tiny_sd, device=Runtime("cpu", dtype=dtype))
    before, after = tensors_of(plain), tensors_of(typed)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == expected or not tensor.is_floating_point()
        assert torch.allclose(tensor.float(), before[name].float(), rtol=2e-2, atol=1e-3)


def test_numbers_that_overflow_half_precision_are_rejected(tiny_sd: Path, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_sd, "cat", "dog")
    (edit,) = eraser.edits
    assert isinstance(edit, efface.TextEdit)
    large = replace(eraser, edits=(replace(edit, left=edit.left * 1e7),))
    for format in ("kohya", "uce", "single-file"):
        with pytest.raises(BadInput, match="too large for float16"):
            efface.export(large, format, tmp_path / "x.safetensors", model=tiny_sd, device=Runtime(dtype="fp16"))
    assert not list(tmp_path.iterdir())


def test_an_export_holds_few_tensors_at_once(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, total = WeakSet[torch.Tensor](), 0, 0

    def watched(path: Path, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal most, total
        for name, tensor in read_tensors(path, names):
            alive.add(tensor)
            most, total = max(most, len(alive)), total + 1
            yield name, tensor
            del tensor

    eraser = efface.erase(tiny_sd, "cat", "dog")
    monkeypatch.setattr("efface.models.storage.folder.read_tensors", watched)
    efface.export(eraser, "single-file", tmp_path / "x.safetensors", model=tiny_sd)
    tensors = load_file(tmp_path / "x.safetensors")
    assert total > 100 > 10 > most
    assert len(tensors) > total / 2


def test_the_same_export_has_the_same_bytes(tiny_sd: Path, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_sd, "cat", "dog")
    for format in ("kohya", "single-file", "uce"):
        files = [tmp_path / f"{format}-{k}.safetensors" for k in range(2)]
        for file in files:
            efface.export(eraser, format, file, model=tiny_sd)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_no_result_of_a_run_contains_a_local_path(tiny_sd: Path, tmp_path: Path) -> None:
    prompts, preserved = tmp_path / "private.csv", tmp_path / "private.txt"
    prompts.write_text("prompt\na cat\n")
    preserved.write_text("a house\n")
    eraser = efface.erase(tiny_sd, "cat", "dog", preserve_file=preserved)
    eraser.save(tmp_path / "out.safetensors")
    efface.generate(prompts, model=tiny_sd, eraser=tmp_path / "out.safetensors", steps=1, folder=tmp_path / "images")
    written = [tmp_path / "out.safetensors", *(file for file in (tmp_path / "images").rglob("*") if file.is_file())]
    assert any(file.name == "metadata.jsonl" for file in written)
    for file in written:
        for private in (tmp_path, tiny_sd.parent):
            assert json.dumps(str(private))[1:-1].encode() not in file.read_bytes()
