"""A diffusers export holds the unchanged parts byte for byte, and names that old and new libraries read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
from efface import Eraser, Model, WeightEdit, open_model
from support import random32
from tiny_families import tiny_sdxl

FC = "encoder.layers.0.mlp.fc1.weight"


@pytest.fixture
def published(tiny_sd: Path, tmp_path: Path) -> Path:
    """A folder as published ones are: a safety checker, a slow tokenizer's files, prefixed names, other files."""
    folder = tmp_path / "published"
    shutil.copytree(tiny_sd, folder)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text('{"crop_size":  224}')
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "tokenizer" / "vocab.json").write_text("{ }")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}
    save_file(prefixed, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt", "made": "elsewhere"})
    return folder


def same_files(one: Path, other: Path) -> bool:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    return files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in files
    )


def of_text_encoder(model: Model) -> Eraser:
    (name,) = [name for name, _ in model.text_encoder.named_parameters() if name.endswith(FC)]
    edit = WeightEdit(f"text_encoder.{name}", up=random32(64, 1), down=random32(1, 32))
    return replace(efface.erase(model, "cat", "dog"), edits=(edit,))


@pytest.mark.parametrize("changed", ["unet", "text_encoder"])
def test_unchanged_parts_are_copied(published: Path, tmp_path: Path, changed: str) -> None:
    model, path = open_model(published), tmp_path / "exported"
    eraser = efface.erase(model, "cat", "dog") if changed == "unet" else of_text_encoder(model)
    efface.export(eraser, "diffusers", path, model=model)
    parts = [item.name for item in published.iterdir() if item.is_dir()]
    assert {name for name in parts if not same_files(published / name, path / name)} == {changed}
    assert (path / "model_index.json").read_bytes() == (published / "model_index.json").read_bytes()
    assert (path / changed / "config.json").read_bytes() == (published / changed / "config.json").read_bytes()


def test_a_changed_text_encoder_has_the_names_of_older_versions(published: Path, tmp_path: Path) -> None:
    model = open_model(published)
    efface.export(of_text_encoder(model), "diffusers", tmp_path / "exported", model=model)
    before = load_file(published / "text_encoder" / "model.safetensors")
    after = load_file(tmp_path / "exported" / "text_encoder" / "model.safetensors")
    assert after.keys() == before.keys()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {f"text_model.{FC}"}


def test_a_part_that_other_code_changed_is_saved_as_it_is(published: Path, tmp_path: Path) -> None:
    model = open_model(published)
    encoder: Any = model.text_encoder
    eraser = efface.erase(model, "cat", "dog")
    next(p for n, p in encoder.named_parameters() if n.endswith("layers.1.mlp.fc1.bias")).data += 1e-4
    efface.export(eraser, "diffusers", tmp_path / "exported", model=model)
    assert not same_files(published / "text_encoder", tmp_path / "exported" / "text_encoder")


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_pipeline_in_memory_is_saved_with_the_files_of_older_versions(
    tiny_sd: Path, tmp_path: Path, family: str
) -> None:
    pipeline: Any = open_model(tiny_sd).pipeline() if family == "sd" else tiny_sdxl(tiny_sd)
    path = tmp_path / "exported"
    efface.export(efface.erase(pipeline, "cat", "dog"), "diffusers", path, model=pipeline)
    for name in ("tokenizer", *(["tokenizer_2"] if family == "sdxl" else [])):
        vocabulary = json.loads((path / name / "vocab.json").read_text())
        assert vocabulary == pipeline.tokenizer.get_vocab()
        assert (path / name / "merges.txt").read_text().startswith("#version")
    assert all(name.startswith("text_model.") for name in load_file(path / "text_encoder" / "model.safetensors"))
    opened, plain = open_model(path), open_model(pipeline)
    assert torch.equal(opened.embed(["a red cat"]).tokens, plain.embed(["a red cat"]).tokens)


def test_unchanged_parts_of_a_folder_that_a_new_version_saved_have_the_names_of_older_ones(
    tiny_sd: Path, tmp_path: Path
) -> None:
    efface.export(efface.erase(tiny_sd, "cat", "dog"), "diffusers", tmp_path / "exported", model=tiny_sd)
    before, after = (
        load_file(folder / "text_encoder" / "model.safetensors") for folder in (tiny_sd, tmp_path / "exported")
    )
    assert not any(name.startswith("text_model.") for name in before)
    assert {name.removeprefix("text_model.") for name in after} == before.keys()
    assert all(name.startswith("text_model.") for name in after)
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "exported" / "tokenizer").iterdir()}
