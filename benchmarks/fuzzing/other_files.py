"""Readers of files of other tools: LoRAs, checkpoints, arrays and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import efface
from efface.errors import BadFile
from efface.formats.reading import read_checkpoint
from efface.image_files import is_blank, read_picture
from efface.judges.q16 import read_vectors
from efface.metrics.fid import FeatureStatistics
from efface.models.storage.single_file import SingleFile
from fuzzing.efface_files import PICTURE, emoji
from fuzzing.picture_mutations import picture, png
from fuzzing.reader import Reader, bytes_of, written
from fuzzing.tensor_mutations import npy_file, npz_file, pickled, safetensors_file
from fuzzing.text_mutations import damaged, json_file

_ADAPTER = {"lora_alpha": 4, "alpha_pattern": {"x": 2}, "use_rslora": True, "r": 1, "target_modules": ["to_k"]}


def _weights(folder: Path) -> list[Path]:
    eraser = efface.erase(emoji(), "cat", to="dog")
    paths: list[Path] = []
    for form in ("lora", "kohya", "uce", "peft"):
        paths.append(folder / form / ("adapter_model.safetensors" if form == "peft" else f"{form}.safetensors"))
        paths[-1].parent.mkdir()
        if form != "peft":
            efface.export(getattr(eraser, "eraser", eraser), form, paths[-1], model=emoji())
    save_file(load_file(paths[0]), paths[-1])
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(_ADAPTER))
    return paths


def _adapter_settings(folder: Path) -> list[Path]:
    return [_weights(folder)[-1].with_name("adapter_config.json")]


def _read_weights(path: Path) -> object:
    if path.suffix == ".json":
        path = path.with_name("adapter_model.safetensors")
    return efface.import_eraser(path, model=emoji(), concepts="cat").hash


def _pickles(folder: Path) -> list[Path]:
    state = {"to_k.weight": torch.randn(3, 4), "to_v.weight": torch.randn(3, 4)}
    path = folder / "pickle" / "x.pt"
    path.parent.mkdir()
    torch.save({"state_dict": state, "step": 3}, path)
    return [path]


def _read_pickle(path: Path) -> object:
    return sorted(tuple(read().shape) for read in read_checkpoint(path).tensors.values())


_CHECKPOINT = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 4),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(4, 4),
    "first_stage_model.encoder.conv_in.weight": torch.zeros(4, 4),
}


def _pickled_checkpoint(folder: Path) -> list[Path]:
    path = folder / "pickled" / "a.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": _CHECKPOINT}, path)
    return [path]


def _checkpoint(folder: Path) -> list[Path]:
    path = folder / "safe" / "a.safetensors"
    path.parent.mkdir()
    save_file(_CHECKPOINT, path)
    return [path]


def _read_checkpoint(path: Path) -> object:
    opened = SingleFile.of(path, False, None)
    opened.hash("text_encoder")
    return sorted(opened.names("text_encoder"))


def _read_vectors(path: Path) -> object:
    return read_vectors(path).tolist()


def _read_statistics(path: Path) -> object:
    return FeatureStatistics.load(path).mean.tolist()


def _read_picture(path: Path) -> object:
    try:
        pixels = read_picture(path)
    except OSError as error:
        raise BadFile(str(error)) from error
    is_blank(pixels)
    return pixels.shape


_PIXELS = Image.fromarray(PICTURE)
_PICTURES = written(
    "p.png", *(bytes_of(lambda f, mode=mode: _PIXELS.convert(mode).save(f, "PNG")) for mode in ("RGB", "P"))
)
_VECTORS = np.ones((2, 8), np.float32)
_NPY = written("v.npy", bytes_of(lambda file: np.save(file, _VECTORS)))
_NPZ = written("v.npz", bytes_of(lambda file: np.savez(file, v=_VECTORS)))
_STATISTICS = written("s.npz", bytes_of(lambda file: np.savez(file, mu=np.ones(8), sigma=np.eye(8))))
_SAFE = (damaged, safetensors_file, safetensors_file)
READERS = (
    Reader("LoRAs and edited weights", _weights, _SAFE, _read_weights, share=0.7),
    Reader("settings of peft", _adapter_settings, (damaged, json_file), _read_weights, share=0.5),
    Reader("files of torch.save", _pickles, (damaged, pickled, pickled), _read_pickle),
    Reader("checkpoints in one file (pickle)", _pickled_checkpoint, (damaged, pickled), _read_checkpoint),
    Reader("checkpoints in one file (safetensors)", _checkpoint, _SAFE, _read_checkpoint),
    Reader("Q16's vectors (npy)", _NPY, (damaged, npy_file), _read_vectors),
    Reader("Q16's vectors (npz)", _NPZ, (npz_file,), _read_vectors),
    Reader("statistics of FID", _STATISTICS, (npz_file,), _read_statistics),
    Reader("pictures", _PICTURES, (damaged, png, picture), _read_picture),
)
