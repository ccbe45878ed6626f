"""The parts of an exported folder that an eraser does not change: byte for byte those of the model's own folder.

Libraries save a part in the layout of their newest version: a tokenizer without `vocab.json` and `merges.txt`, a CLIP
text encoder without the prefix `text_model.`. Older versions cannot open the first, and initialise the second at
random. What has to be saved is therefore written with the names that all versions read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from efface.files import public_name
from efface.models.storage.folder import INDEX, Folder
from efface.parsing import read_json

_PREFIX = "text_model."


def restore_unchanged(saved: Path, source: Path | None) -> None:
    """Replace the unchanged parts of a saved model by the files of its source, and repair the names of the others.

    Args:
        saved: The folder that a pipeline was saved to.
        source: The folder that the model was opened from; None if it was opened in another way.
    """
    for part in sorted(path for path in saved.iterdir() if path.is_dir()):
        _remove_local_path(part)
        _write_old_names(part)
    if source is None or not (source / INDEX).is_file():
        return
    parts = [name for name, value in read_json(source / INDEX).items() if isinstance(value, list) and value[0]]
    for part in parts:
        if (source / part).is_dir() and _is_unchanged(saved, source, part):
            shutil.rmtree(saved / part, ignore_errors=True)
            shutil.copytree(source / part, saved / part)
            _write_old_names(saved / part)  # a no-op, unless the source was saved by a new version
        elif (source / part / "config.json").is_file():
            shutil.copyfile(source / part / "config.json", saved / part / "config.json")
    if all((saved / part).is_dir() for part in parts):
        shutil.copyfile(source / INDEX, saved / INDEX)


def _is_unchanged(saved: Path, source: Path, part: str) -> bool:
    """Whether a part was not saved, has no weights, or has the weights of the source up to their dtype."""
    files = sorted((saved / part).glob("*.safetensors"))
    if not files:
        return True
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _tensors(file)
    folder = Folder(source)
    before = {name.removeprefix(_PREFIX): tensor for name, tensor in folder.tensors(part, folder.names(part))}
    known = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return known.keys() <= before.keys() and all(
        torch.equal(tensor, before[name].to(tensor.dtype)) for name, tensor in known.items()
    )


def _config(part: Path) -> dict[str, Any]:
    config = part / "config.json"
    return dict(read_json(config, finite=False)) if config.is_file() else {}


def _remove_local_path(part: Path) -> None:
    """Replace a local path in a saved part's configuration by its name."""
    config, content = part / "config.json", _config(part)
    if isinstance(content.get("_name_or_path"), str):
        content["_name_or_path"] = public_name(content["_name_or_path"])
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_old_names(part: Path) -> None:
    """Give a part the names and files that older versions of the libraries read too, if it lacks them."""
    weights = part / "model.safetensors"
    if _config(part).get("architectures") == ["CLIPTextModel"] and weights.is_file():
        tensors = _tensors(weights)
        renamed = {name if name.startswith(_PREFIX) else _PREFIX + name: tensor for name, tensor in tensors.items()}
        if renamed.keys() != tensors.keys():
            save_file(renamed, weights, metadata={"format": "pt"})
    tokenizer = part / "tokenizer.json"
    if tokenizer.is_file() and not (part / "vocab.json").exists():
        model = read_json(tokenizer, finite=False).get("model", {})
        if model.get("type") == "BPE" and model.get("end_of_word_suffix") == "</w>":
            merges = [" ".join(pair) if isinstance(pair, list) else str(pair) for pair in model["merges"]]
            (part / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
            (part / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _tensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
