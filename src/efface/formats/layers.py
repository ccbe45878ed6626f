"""A folder of layers, as the U&ME challenge entry writes it: one pickled `nn.Linear` per file.

    Blue Jay/text_encoder.text_model.encoder.layers[1].mlp.fc2Blue Jay

The file's name is the layer's place in the pipeline, followed by the concept. `torch.load` rebuilds tensors and
`nn.Linear` only, so no code of a file is run.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from efface.errors import BadFile
from efface.formats.reading import Checkpoint
from efface.tensor_files import read_pickle

_NAME = re.compile(
    r"(?P<layer>(?:unet|text_encoder)(?:\.\w+|\[\d+\])*?\.(?:fc1|fc2|to_[qkv]|[qkv]_proj))(?P<concept>.*)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def read_layers(folder: Path) -> Checkpoint:
    """The layers of a folder as a checkpoint; other files are ignored.

    Raises:
        BadFile: The folder has no such file, or a file is damaged or holds something else than one linear layer.
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _NAME.fullmatch(path.name)):
            name = re.sub(r"\[(\d+)\]", r".\1", match["layer"])
            tensors |= {f"{name}.{key}": tensor for key, tensor in _read(path).items()}
    if not tensors:
        raise BadFile(f"The folder {folder} has no layers; their files are named text_encoder...mlp.fc2CONCEPT.")
    return Checkpoint(folder, {name: lambda tensor=tensor: tensor for name, tensor in tensors.items()})


def concept_of_layers(folder: Path) -> str | None:
    """The concept in the names of a folder's files, in words: "Blue Jay" for BlueJay; None if they name none."""
    matches = (_NAME.fullmatch(path.name) for path in sorted(folder.iterdir()))
    names = [match["concept"].removesuffix(".pt") for match in matches if match]
    return _CAMEL.sub(" ", names[0]).strip() or None if names else None


def _read(path: Path) -> dict[str, Tensor]:
    with torch.serialization.safe_globals([nn.Linear, set]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the pickle protocol of a file that is refused
        layer = read_pickle(path)
    tensors = vars(layer).get("_parameters") if type(layer) is nn.Linear else None
    if not isinstance(tensors, dict) or not isinstance(tensors.get("weight"), Tensor):
        raise BadFile(f"{path} holds no linear layer.")
    return {str(key): tensor.detach() for key, tensor in tensors.items() if isinstance(tensor, Tensor)}
