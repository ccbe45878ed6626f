"""A checkpoint of Stable Diffusion 1.x, 2.x or XL in one file, read like a diffusers folder.

Its names are those of the original code (`model.diffusion_model.input_blocks.1.1...`). The conversion of diffusers,
applied to names instead of tensors, maps them, so that weights can be read one by one here too. The configuration and
the tokenizer, which such a file lacks, come from a folder: `checkpoints`, or one that the user passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_tensors
from efface.models.storage import compvis
from efface.models.storage.checkpoints import HERE, clip_tokenizer
from efface.models.storage.completeness import check_further, check_loaded, check_names
from efface.models.storage.folder import Folder, has_weights, read_tensors
from efface.models.storage.headers import read_headers
from efface.parsing import library_errors, read_json
from efface.tensor_files import read_pickle

SUFFIXES = (".safetensors", ".ckpt", ".pt")
EMA = "#ema"  # suffix of a checkpoint's name that selects its averaged weights

_NESTED = 4  # levels of {"state_dict": ...}
_NETWORKS = {"unet": compvis.DENOISER, "vae": compvis.VAE}
#: The beginnings of the names of text encoders, by version and part.
_ENCODERS: Mapping[str, Mapping[str, str]] = {
    "sd1": {"text_encoder": compvis.TEXT},
    "sd2": {"text_encoder": compvis.OPEN_CLIP},
    "sdxl": {"text_encoder": compvis.SDXL_TEXT, "text_encoder_2": compvis.SDXL_OPEN_CLIP},
}
_EDM = "edm_mean"  # in checkpoints with the noise levels of EDM
_CLIP = "cond_stage_model.transformer."


@dataclass(frozen=True)
class SingleFile(Folder):
    """One checkpoint; `root` is the folder with its configuration.

    Attributes:
        path: The checkpoint.
        ema: Read the averaged weights of the U-Net instead of the last ones.
    """

    path: Path = field(kw_only=True)
    ema: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, path: Path, ema: bool, config: Path | None) -> SingleFile:
        """The checkpoint with the configuration of its version.

        Args:
            path: The checkpoint.
            ema: Read the averaged weights of the U-Net.
            config: A folder with another configuration.

        Raises:
            BadInput: It is not a checkpoint of Stable Diffusion 1.x, 2.x or XL, or lacks the requested averaged
                weights.
        """
        checkpoint = cls(config or HERE, path=path, ema=ema)
        names = checkpoint._tensor_names
        if not any(name.startswith(compvis.DENOISER) for name in names):
            raise BadInput(f"{path} is not a Stable Diffusion checkpoint: it has no weights named {compvis.DENOISER}*.")
        if checkpoint._version is None or _EDM in names:
            lacks = "has no text encoder" if checkpoint._version is None else "has not the noise levels"
            raise BadInput(
                f"{path} {lacks} of Stable Diffusion 1.x, 2.x or XL; other families are opened from "
                "diffusers folders: convert it (diffusers' from_single_file and save_pretrained)."
            )
        if ema and _averaged(next(name for name in names if name.startswith(compvis.DENOISER))) not in names:
            raise BadInput(f"{path} has no averaged (EMA) weights; leave out {EMA}.")
        return checkpoint if config else replace(checkpoint, root=HERE / checkpoint._version)

    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a part; that of the scheduler follows the markers in a checkpoint of SDXL."""
        config = super().config(part)
        if part != "scheduler" or compvis.V_PREDICTION not in self._tensor_names:
            return config
        has_no_signal = {"rescale_betas_zero_snr": True} if compvis.ZERO_SNR in self._tensor_names else {}
        return {**config, "prediction_type": "v_prediction", **has_no_signal}

    def variant(self, part: str) -> str | None:
        """None: a checkpoint has no variants."""
        return None

    def weights(self, part: str) -> tuple[Path, ...]:
        return (self.path,)

    def here(self, part: str) -> tuple[Path, ...]:
        """The checkpoint."""
        return (self.path,)

    def hash(self, part: str) -> str:
        # Only the part, tensor by tensor: reading the whole file would take longer than erasing.
        digests = (sha256_of_tensors({name: tensor}) for name, tensor in self._part(part))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def parameters(self, part: str) -> int:
        """The number of a part's parameters."""
        if self._pickled is not None:
            return sum(self._pickled[name].numel() for name in self._names_of(part))
        headers = read_headers((self.path,))
        return sum(headers[name].numel for name in self._names_of(part))

    def place(self, part: str) -> str:
        """Where a part is, for messages."""
        return f"The {part} in {self.path}"

    def names(self, part: str) -> tuple[str, ...]:
        """Names in diffusers of a part's tensors."""
        return tuple(self._stored(part))

    def tensors(self, part: str, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Iterate over tensors, of any shape, by their names in diffusers."""
        wanted = {stored: name for name, stored in self._stored(part).items() if name in names}
        yield from ((wanted[stored], tensor) for stored, tensor in self._read(wanted))

    def load(self, part: str, kind: Any, dtype: torch.dtype) -> Any:
        """Load a part.

        Args:
            part: Its name.
            kind: Its class.
            dtype: The type of its weights, if it has any.

        Raises:
            BadFile: Its tensors do not fit the configuration.
        """
        if not has_weights(kind):
            has_tokenizer = any((self.root / part).glob("*.txt")) or (self.root / part / "tokenizer.json").exists()
            if has_tokenizer:
                return super().load(part, kind, dtype)
            config = read_json(self.root / part / "tokenizer_config.json")
            return clip_tokenizer(kind, model_max_length=config["model_max_length"], pad_token=config["pad_token"])
        from diffusers.loaders import single_file_utils

        tensors = dict(self._part(part))
        if not tensors:
            raise BadFile(f"{self.path} has no {part}; convert it together with one (diffusers' save_pretrained).")
        options: dict[str, Any] = {
            "config": str(self.root),
            "subfolder": part,
            "torch_dtype": dtype,
            "local_files_only": True,
        }
        failure = f"{self.place(part)} does not fit the configuration in {self.root}"
        try:
            with library_errors(failure):
                if part in _NETWORKS:
                    network = kind.from_single_file(dict(tensors), **options)
                else:
                    network = single_file_utils.create_diffusers_clip_model_from_ldm(kind, dict(tensors), **options)
        except BadFile:  # of the library, which does not name what is missing
            with torch.device("meta"):
                self._check_complete(part, self.built(part, kind), tensors.keys())
            raise
        self._check_complete(part, network, tensors.keys())
        check_loaded(self.place(part), network)
        return network

    def _check_complete(self, part: str, network: torch.nn.Module, names: Collection[str]) -> None:
        """Check that the file has all weights of a network and no further layers.

        Args:
            part: The part.
            network: The network of its configuration.
            names: The part's original names in the file.

        Raises:
            BadFile: It lacks weights, or has further layers.
        """
        expected = self._original(part, network)
        if missing := sorted(expected.difference(names)):
            more = f" and {len(missing) - 1} more weights" if len(missing) > 1 else ""
            raise BadFile(
                f"{self.place(part)} has no {missing[0]}{more} of the configuration in {self.root}; the file is "
                "incomplete, or of another model."
            )
        further = set(names) - expected
        if self._version == "sd2" and part == "text_encoder":
            # Configurations for diffusers leave out OpenCLIP's last layer.
            last = f"{compvis.OPEN_CLIP}transformer.resblocks.{self.config(part)['num_hidden_layers']}."
            further = {name for name in further if not name.startswith(last)}
        check_further(self.place(part), expected, further)

    def _original(self, part: str, network: torch.nn.Module) -> set[str]:
        """The names in the file of a network's weights."""
        empty = ((name, tensor.to("meta")) for name, tensor in network.state_dict().items())
        prefix = {**_NETWORKS, **self._encoders}[part]
        return {name for name, _ in compvis.original_tensors(empty, prefix, self.config(part))}

    def _names_of(self, part: str) -> list[str]:
        """The original names of a part's tensors."""
        prefix = {**_NETWORKS, **self._encoders}[part].removesuffix("text_model.")
        return [name for name in sorted(self._tensor_names) if name.startswith(prefix)]

    @property
    def _encoders(self) -> Mapping[str, str]:
        assert self._version is not None
        return _ENCODERS[self._version]

    @cached_property
    def _version(self) -> str | None:
        """The version of Stable Diffusion whose text encoder, the second one of SDXL, the checkpoint has."""
        for version, prefix in (("sd1", _CLIP), ("sd2", compvis.OPEN_CLIP), ("sdxl", compvis.SDXL_OPEN_CLIP)):
            if any(name.startswith(prefix) for name in self._tensor_names):
                return version
        return None

    def _part(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a part by their original names."""
        wanted = self._names_of(part)
        stored = [_averaged(name) for name in wanted] if self.ema and part == "unet" else wanted
        yield from zip(map(_published, wanted), (tensor for _, tensor in self._read(stored)), strict=True)

    def _stored(self, part: str) -> Mapping[str, str]:
        """The names in the file of a part's tensors, by their names in diffusers."""
        if part == "text_encoder":
            return {name.removeprefix(_CLIP): name for name in self._tensor_names if name.startswith(_CLIP)}
        assert part == "unet"  # the only other part whose tensors are read one by one
        return self._converted

    @cached_property
    def _converted(self) -> Mapping[str, str]:
        """The names in the file of the U-Net's tensors, by their names in diffusers."""
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        stored = {
            name: _averaged(name) if self.ema else name
            for name in self._tensor_names
            if name.startswith(compvis.DENOISER)
        }
        with library_errors(f"{self.place('unet')} does not fit the configuration in {self.root}"):
            converted: dict[str, str] = convert_ldm_unet_checkpoint(stored, self.config("unet"))
        return converted

    @cached_property
    def _tensor_names(self) -> tuple[str, ...]:
        if self._pickled is not None:
            return tuple(self._pickled)
        with library_errors(f"Cannot read a checkpoint from {self.path}"), safe_open(self.path, "pt") as file:
            names = tuple(file.keys())
        check_names(self.path, names)
        return names

    def _read(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Iterate over tensors by their names in the file."""
        if self._pickled is not None:
            yield from ((name, self._pickled[name]) for name in names)
            return
        yield from read_tensors(self.path, tuple(names))

    @cached_property
    def _pickled(self) -> Mapping[str, Tensor] | None:
        """The tensors of a .ckpt file, mapped into memory; only tensors are ever unpickled."""
        if self.path.suffix.lower() == ".safetensors":
            return None
        content: Any = read_pickle(self.path)
        for _ in range(_NESTED):
            if isinstance(content, dict) and "state_dict" in content:
                content = content["state_dict"]
        if not isinstance(content, dict):
            raise BadFile(f"{self.path} contains no named weights.")
        return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _published(name: str) -> str:
    """The published name of a tensor: early merges of 1.x leave out a word in those of the text encoder."""
    inside = name.removeprefix(_CLIP)
    return name if inside == name or name.startswith(compvis.TEXT) else compvis.TEXT + inside


def _averaged(name: str) -> str:
    """Name of the averaged copy of a weight of the U-Net."""
    return compvis.ema_name(name.removeprefix(compvis.DENOISER))
