"""Whether the files of a part are complete. Libraries fill in what is missing: random weights, or default settings.

Configurations in the format of diffusers leave out settings that newer versions added. Therefore only settings that
every published configuration has are required.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from efface.errors import BadFile
from efface.parsing import leaves, library_errors, read_json

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a layer
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
_CLIP = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "vocab_size",
)  # fmt: skip
_BLOCKS = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types")
_REQUIRED: Mapping[str, Sequence[str]] = {
    "clip_text_model": _CLIP,
    "t5": ("d_model", "d_ff", "d_kv", "num_layers", "num_heads", "vocab_size"),
    "UNet2DConditionModel": (*_BLOCKS, "in_channels", "out_channels", "cross_attention_dim", "attention_head_dim"),
    "AutoencoderKL": (*_BLOCKS, "latent_channels"),
    "SD3Transformer2DModel": ("num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim"),
    "FluxTransformer2DModel": ("num_layers", "num_single_layers", "num_attention_heads", "joint_attention_dim"),
}
_UNQUANTISED = "use the model before it was quantised, with --quantize to load it in fewer bits"
#: Settings of a part that are texts, and numbers that are not whole.
_TEXTS = ("down_block_types", "up_block_types", "beta_schedule")
_EPSILONS = ("layer_norm_eps", "layer_norm_epsilon")
_FRACTIONS = ("beta_start", "beta_end", "shift", *_EPSILONS)
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")
_SIZES = ("projection_dim", "pooled_projection_dim", "transformer_layers_per_block")
_LARGEST, _LAYERS = 10_000_000, 1000
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
_FLOW = ("num_train_timesteps", "shift")
#: Schedulers with noise levels and no betas, such as Playground 2.5's and that of Sana Sprint.
_WITHOUT_BETAS = ("EDM", "SCM", "CMStochastic", "KarrasVe", "IPNDM", "LTX")

#: Endings of names that hold the scales of quantised weights: ComfyUI's scaled fp8, bitsandbytes, quanto.
_SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".SCB", ".absmax", ".weight._scale")


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Check that a configuration has what libraries would otherwise replace by a default.

    Args:
        path: The file, for messages.
        config: Its content.

    Raises:
        BadFile: A setting is missing, or of another type.
    """
    kind = str(config.get("_class_name") or config.get("model_type") or "")
    if not kind:
        raise BadFile(f"{path} names no model (_class_name or model_type); its files are incomplete.")
    required = _REQUIRED.get(kind, ())
    if path.name == "scheduler_config.json":
        is_flow = "Flow" in kind or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
        has_betas = not (is_flow or kind.startswith(_WITHOUT_BETAS))
        required = _FLOW if kind.startswith("FlowMatchEuler") else _BETAS if has_betas else ()
    missing = [name for name in required if name not in config]
    if missing:
        raise BadFile(f"{path} has no {missing[0]}; its files are incomplete.")
    if config.get("quantization_config"):
        raise BadFile(f"{path} is of weights that are stored quantised; {_UNQUANTISED}.")
    sizes = [name for name in _SIZES if config.get(name) is not None]
    for name in (*required, *sizes, *(name for name in _EPSILONS if name in config)):
        _check_setting(path, name, config[name])


def _check_setting(path: Path, name: str, value: object) -> None:
    """Check that a setting is a text, a number of a plausible size, or a list of those.

    Raises:
        BadFile: It is not.
    """
    with library_errors(f"Cannot read {name} in {path}"):
        values = list(leaves(value))
        if not values or (name in _LISTS and not isinstance(value, (list, tuple))):
            raise ValueError("it is not a list of values")
        for item in values:
            if not _is_possible(name, item):
                raise ValueError(f"{str(item)[:40]!r} is not a possible value")


def _is_possible(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    if name in _FRACTIONS:
        return True
    return 1 <= value <= (_LAYERS if "layers" in name else _LARGEST) and value == int(value)


def check_names(path: Path, names: Sequence[str]) -> None:
    """Check that a file's tensors are the weights themselves.

    Args:
        path: The file, for messages.
        names: The names of its tensors.

    Raises:
        BadFile: They are quantised, so that their numbers are not the weights.
    """
    scales = [name for name in names if name.endswith(_SCALES)]
    if scales:
        raise BadFile(f"{path} stores quantised weights ({scales[0]}); {_UNQUANTISED}.")


def check_shards(folder: Path, files: Sequence[Path], variant: str | None) -> None:
    """Check that weights in several files are all there.

    Args:
        folder: The folder of the part.
        files: The files of the weights.
        variant: The variant that the files are of.

    Raises:
        BadFile: The index names an absent file, or a numbered file is missing.
    """
    present = {path.name for path in files}
    for index in folder.glob(f"*.safetensors.index{f'.{variant}' if variant else ''}.json"):
        absent = sorted(set(_weight_map(index).values()) - present)
        if absent:
            raise BadFile(f"{folder} has no {absent[0]}, which {index.name} names; its files are incomplete.")
    for path in files:
        shard = _SHARD.search(path.name)
        count = int(shard[2]) if shard else 0
        for number in range(1, count + 1):
            name = _SHARD.sub(f"-{number:05d}-of-{count:05d}.safetensors", path.name)
            if name not in present:
                raise BadFile(f"{folder} has no {name}; its files are incomplete.")


def _weight_map(index: Path) -> Mapping[str, str]:
    content = read_json(index)
    with library_errors(f"Cannot read {index}"):
        return {str(name): str(file) for name, file in content["weight_map"].items()}


def check_tokenizer_files(folder: Path, kind: Any) -> None:
    """Check that a tokenizer has its vocabulary: one file for all, or each of the others.

    Args:
        folder: The folder of the tokenizer.
        kind: Its class.

    Raises:
        BadFile: A file of the vocabulary is missing.
    """
    names = dict(getattr(kind, "vocab_files_names", None) or {})
    single = names.pop("tokenizer_file", None)
    if single is None or (folder / single).is_file():
        return
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing:
        raise BadFile(f"{folder} has neither {single} nor {missing[0]}; its files are incomplete.")
    if not names:
        raise BadFile(f"{folder} has no {single}; its files are incomplete.")


def check_tokenizer(name: str, tokenizer: Any, rows: int | None) -> None:
    """Check that a tokenizer, loaded by any program, has its vocabulary.

    Args:
        name: The name of the model, for messages.
        tokenizer: The tokenizer.
        rows: The number of tokens in the table of its text encoder, if known.

    Raises:
        BadFile: It has much fewer words than the text encoder has rows, or more.
    """
    words = len(tokenizer) if hasattr(tokenizer, "__len__") else None
    if rows and words is not None and 2 * words < rows:
        raise BadFile(
            f"The tokenizer of {name} has {words} tokens, and its text encoder {rows}; the files of its vocabulary are "
            "incomplete."
        )
    if rows and words is not None and words > rows:
        raise BadFile(
            f"The tokenizer of {name} has {words} tokens, and its text encoder only {rows}; the tokenizer belongs to "
            "another model, or is opened as another class."
        )


def check_further(place: str, names: Collection[str], further: Collection[str], prefix: str = "") -> None:
    """Check that a file has no more layers than its configuration, since libraries leave the others out.

    Args:
        place: The files, for messages.
        names: The names of the network's weights.
        further: The names of the other weights in the file.
        prefix: The name of the network in a larger one, with which its names may begin. Other networks in the file are
            of no concern.

    Raises:
        BadFile: It has the weights of further layers.
    """
    known = {_NUMBER.sub("#", name.removeprefix(prefix)) for name in names}
    for name in sorted(further):
        if _NUMBER.search(name) and _NUMBER.sub("#", name.removeprefix(prefix)) in known:
            raise BadFile(f"{place} does not fit its config.json, which has fewer layers: {name} would be left out.")


def check_loaded(place: str, network: torch.nn.Module, missing: Collection[str] = ()) -> None:
    """Check that all weights of a network came from a file.

    Args:
        place: Where it was loaded from, for messages.
        network: The network.
        missing: The weights that its library reports as missing.

    Raises:
        BadFile: A weight is missing, so that it is random or has no value.
    """
    lost = sorted({*missing, *(name for name, tensor in network.named_parameters() if tensor.is_meta)})
    if lost:
        more = f" and {len(lost) - 1} more weights" if len(lost) > 1 else ""
        raise BadFile(f"{place} has no {lost[0]}{more}; its files are incomplete.")
