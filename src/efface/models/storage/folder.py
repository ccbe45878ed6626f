"""A model in the folder layout of diffusers: its parts, and their tensors one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from efface.errors import BadFile
from efface.files import sha256_of_file
from efface.models.storage.completeness import (
    check_config,
    check_further,
    check_loaded,
    check_names,
    check_shards,
    check_tokenizer_files,
)
from efface.models.storage.headers import read_headers
from efface.parsing import library_errors, read_json

INDEX = "model_index.json"
_AT_ONCE = 8  # tensors


@dataclass(frozen=True)
class Folder:
    """One diffusers folder.

    Attributes:
        root: The folder that contains `model_index.json`.
        fetch: Called with the name of a part before its weights are read, for models that are downloaded part by part.
    """

    root: Path
    fetch: Callable[[str], None] | None = None

    def index(self) -> Mapping[str, Any]:
        """The content of `model_index.json`."""
        return read_json(self.root / INDEX, "the index of a model")

    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.root / part / name
        config = read_json(path, finite=False)
        check_config(path, config)
        return config

    def variant(self, part: str) -> str | None:
        """The variant of the weights to read: None if the plain ones exist, else "fp16" or another that exists."""
        variants = {_variant(path) for path in self._files(part)}
        return None if None in variants else "fp16" if "fp16" in variants else min(str(name) for name in variants)

    def weights(self, part: str) -> tuple[Path, ...]:
        """The files of a part's weights, in order."""
        variant = self.variant(part)
        files = tuple(path for path in self._files(part) if _variant(path) == variant)
        check_shards(self.root / part, files, variant)
        return files

    def hash(self, part: str) -> str:
        """SHA-256 of the files of a part."""
        files = [sha256_of_file(path) for path in self.weights(part)]
        return files[0] if len(files) == 1 else hashlib.sha256("".join(files).encode()).hexdigest()

    def parameters(self, part: str) -> int:
        """The number of a part's parameters, read from the headers of its files."""
        return sum(tensor.numel for tensor in read_headers(self.weights(part)).values())

    def place(self, part: str) -> str:
        """Where a part is, for messages."""
        return str(self.root / part)

    def built(self, part: str, kind: Any) -> Any:
        """A part of a class, with the weights of the class's initialisation, on the default device."""
        config = dict(self.config(part))
        if kind.__module__.startswith("transformers"):
            return kind(kind.config_class.from_dict(config))
        return kind.from_config(config)

    def load(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        """Load a part.

        Args:
            part: Its name.
            kind: Its class.
            dtype: The type of its weights, if it has any.

        Raises:
            BadFile: It has no safetensors weights, or its files are incomplete.
        """
        place = self.root / part
        options: dict[str, Any] = {"local_files_only": True}
        if has_weights(kind):
            self.config(part)  # a check of its settings
            self.names(part)  # a check of its files
            options |= {"variant": self.variant(part), "use_safetensors": True, "output_loading_info": True}
            # transformers and diffusers have two names for the same option.
            if kind.__module__.startswith("transformers"):
                options |= {"dtype": dtype, "ignore_mismatched_sizes": True}  # they are reported below
            else:
                options["torch_dtype"] = dtype
        elif hasattr(kind, "vocab_files_names"):
            check_tokenizer_files(place, kind)
        with library_errors(f"Cannot load {place}"):
            loaded = kind.from_pretrained(place, **options)
        if not has_weights(kind):
            return loaded
        network, report = loaded
        for name, *shapes in report["mismatched_keys"]:
            raise BadFile(f"{place} does not fit its config.json: {name} has the shapes {shapes}.")
        check_loaded(str(place), network, report["missing_keys"])
        prefix = f"{getattr(network, 'base_model_prefix', '')}."
        check_further(str(place), network.state_dict().keys(), report["unexpected_keys"], prefix)
        return network

    def names(self, part: str) -> tuple[str, ...]:
        """Names of a part's tensors, read from the headers of its files."""
        return tuple(name for path in self.weights(part) for name in _header(path))

    def tensors(self, part: str, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the named tensors, of any shape."""
        for path in self.weights(part):
            stored = [name for name in _header(path) if name in names]
            yield from read_tensors(path, stored)

    def here(self, part: str) -> tuple[Path, ...]:
        """The files of a part's weights that need no download, of every variant."""
        return tuple(sorted((self.root / part).glob("*.safetensors")))

    def _files(self, part: str) -> tuple[Path, ...]:
        if self.fetch is not None:
            self.fetch(part)
        files = self.here(part)
        if not files:
            raise BadFile(
                f"{self.root / part} has no .safetensors weights; convert its files, since pickle is not read."
            )
        return files


def read_tensors(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Iterate over tensors of a file, which is mapped anew for every few, so that pages of earlier ones leave memory.

    Args:
        path: The file.
        names: The names of the tensors.

    Yields:
        Names and tensors, of any shape, such as (d_out, d_in).
    """
    for first in range(0, len(names), _AT_ONCE):
        with safe_open(path, framework="pt") as file:
            for name in names[first : first + _AT_ONCE]:
                yield name, file.get_tensor(name)


def has_weights(kind: Any) -> bool:
    """Whether a part's class is a network: tokenizers and schedulers only have a configuration."""
    return issubclass(kind, torch.nn.Module)


def _variant(path: Path) -> str | None:
    """The "fp16" of `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors`."""
    parts = path.name.split(".")
    return parts[1].split("-")[0] if len(parts) > 2 else None


def _header(path: Path) -> tuple[str, ...]:
    with library_errors(f"Cannot read weights from {path}"), safe_open(path, framework="pt") as file:
        names = tuple(file.keys())
    check_names(path, names)
    return names
