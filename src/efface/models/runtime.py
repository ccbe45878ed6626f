"""How a model's parts are loaded and run: type of the weights, quantisation, offloading, attention and compilation.

Offloading, attention and compilation are functions of diffusers. Text encoders and the autoencoder are never quantised,
nor are the maps that read the text, which erasers edit: 15 M of the 11.9 B parameters of FLUX.1.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.models.storage.folder import Folder

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SAME = {"float16": "fp16", "bfloat16": "bf16", "fp32": "float32"}
_OFFLOADS = ("none", "model", "group", "sequential")
_QUANTIZED = ("none", "int8", "fp8", "nf4")
#: Denoisers with more parameters are loaded in half precision by the type `auto`.
_LARGE = 3_000_000_000
#: Families whose denoisers may run in float16; those of others overflow.
_FLOAT16_FAMILIES = ("sd", "sdxl")


@dataclass(frozen=True)
class Runtime:
    """How a model's parts are loaded and run.

    Example:
        >>> efface.generate("a cat", model="path/to/flux", device=efface.Runtime("cuda", offload="model"))

    Attributes:
        device: The device: auto, cpu, cuda, cuda:1 or mps.
        dtype: The type of the weights: float32, bf16 or fp16, which are also called bfloat16 and float16; auto is
            float32 for denoisers of up to 3 B parameters, and bf16 for larger ones, or on a GPU without bf16, fp16 for
            SDXL.
        offload: Which parts wait in the memory of the CPU until they run: none, whole parts (model), groups of layers
            (group), or single layers (sequential).
        quantize: The type that stores the denoiser's weights while they do not run: none, int8 (torchao), fp8, or
            nf4 (bitsandbytes), which has 4 bits.
        attention: The name of diffusers' attention backend; None is the default.
        compile: Whether the denoiser is compiled.

    Raises:
        BadInput: A value is unknown, or two values exclude each other.
    """

    device: str = "auto"
    dtype: str = "auto"
    offload: str = "none"
    quantize: str = "none"
    attention: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _SAME.get(self.dtype, self.dtype))
        for name, value, known in (
            ("type", self.dtype, ("auto", *DTYPES)),
            ("offloading", self.offload, _OFFLOADS),
            ("quantisation", self.quantize, _QUANTIZED),
        ):
            if value not in known:
                raise BadInput(f"Unknown {name} '{value}'; use {', '.join(known[:-1])} or {known[-1]}.")
        if self.quantize in ("int8", "nf4") and self.offload in ("group", "sequential"):
            raise BadInput(
                f"Weights in {self.quantize} are offloaded in whole parts only; use offload=model, or quantize=fp8."
            )
        if self.compile and self.offload == "sequential":
            raise BadInput("Layers that are offloaded one by one cannot be compiled; use offload=model or group.")

    @property
    def is_changing(self) -> bool:
        """Whether the denoiser is changed after it is loaded."""
        return self.compile or self.attention is not None or self.quantize != "none"

    def facts(self, dtype: torch.dtype) -> dict[str, Any]:
        """What can change numbers, for records: everything that is not the default.

        Args:
            dtype: The type that was chosen.
        """
        chosen = {"quantize": self.quantize, "attention": self.attention, "compile": self.compile}
        of_dtype = {} if dtype == torch.float32 else {"dtype": str(dtype).removeprefix("torch.")}
        return of_dtype | {name: value for name, value in chosen.items() if value not in ("none", None, False)}


def resolve_device(device: str | torch.device) -> str:
    """The torch device that a user names.

    Args:
        device: A device, or `auto` for the fastest one. Each process that a launcher starts gets its own.

    Raises:
        BadInput: The device is unknown, or this machine does not have it.
    """
    name = str(device)
    if name == "auto":
        if torch.cuda.is_available():
            return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind, index = torch.device(name).type, torch.device(name).index or 0
    except RuntimeError as error:
        raise BadInput(f"Unknown device '{name}'; use auto, cpu, cuda, cuda:1 or mps.") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        raise BadInput(f"The device '{name}' is not available on this machine; use --device auto.")
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise BadInput(f"There is no device '{name}' here; there are {torch.cuda.device_count()}, counted from 0.")
    return name


def chosen_dtype(runtime: Runtime, folder: Folder, denoiser: str, family: str, device: torch.device) -> torch.dtype:
    """The type of a model's weights.

    Args:
        runtime: The options, with the type or `auto`.
        folder: The model's files.
        denoiser: The name of the denoiser's part.
        family: The name of the family.
        device: The device of the parts.
    """
    if runtime.dtype != "auto":
        return DTYPES[runtime.dtype]
    if not _is_large(folder, denoiser):
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16 if family in _FLOAT16_FAMILIES else torch.float32
    return torch.bfloat16


def _is_large(folder: Folder, denoiser: str) -> bool:
    files = folder.here(denoiser)
    if not files:  # before a download, only the index of weights in several files is there
        return any((folder.root / denoiser).glob("*.safetensors.index.json"))
    if sum(path.stat().st_size for path in files) <= _LARGE:
        return False  # not even one byte per parameter: the headers need not be read
    return folder.parameters(denoiser) > _LARGE


def prepare_denoiser(
    denoiser: Any, runtime: Runtime, device: torch.device, dtype: torch.dtype, readers: Collection[str]
) -> Any:
    """Quantise, place and compile a denoiser as the options say, and choose its attention.

    Args:
        denoiser: The denoiser, on the CPU.
        runtime: The options.
        device: The device that it runs on.
        dtype: The type that it computes in.
        readers: The names of the weights that read the text, which are not quantised.

    Raises:
        BadInput: A package is missing, or the denoiser does not support an option.
    """
    layers = tuple(name.removesuffix(".weight") for name in readers)
    if runtime.quantize == "int8":
        _to_int8(denoiser, layers)
    elif runtime.quantize == "nf4":
        _to_nf4(denoiser, layers, dtype)
    elif runtime.quantize == "fp8":
        patterns = tuple(f"^{layer.replace('.', '[.]')}$" for layer in layers)
        denoiser.enable_layerwise_casting(
            torch.float8_e4m3fn, dtype, skip_modules_pattern=(*patterns, "norm", "pos_embed", "patch_embed")
        )
    # bitsandbytes quantises when a weight is moved, also to the CPU, where an offloaded denoiser waits.
    denoiser.to(device if runtime.offload == "none" else torch.device("cpu"))
    if runtime.attention is not None:
        _set_attention(denoiser, runtime.attention)
    if runtime.compile:
        # Blocks of one kind share a graph, which takes minutes less than one graph of the whole network.
        denoiser.compile_repeated_blocks() if getattr(denoiser, "_repeated_blocks", None) else denoiser.compile()
    return denoiser


def _to_int8(denoiser: Any, readers: Collection[str]) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore
    except ImportError as error:
        raise BadInput("Weights in int8 need a package; run `pip install torchao`, or use fp8.") from error

    def is_quantised(module: Any, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and name not in readers

    quantize_(denoiser, Int8WeightOnlyConfig(), is_quantised)


def _to_nf4(denoiser: Any, readers: Collection[str], dtype: torch.dtype) -> None:
    """Replace the linear maps, which bitsandbytes quantises when they are moved to a device."""
    try:
        import bitsandbytes.nn as bitsandbytes  # pyright: ignore
    except ImportError as error:
        raise BadInput("Weights in nf4 need a package; run `pip install bitsandbytes`, or use fp8.") from error
    layers: Any = bitsandbytes  # it has types only where it is installed
    for name, layer in list(denoiser.named_modules()):
        if type(layer) is torch.nn.Linear and name not in readers:
            bias: Any = layer.bias
            shape = (layer.in_features, layer.out_features, bias is not None)
            four_bits = layers.Linear4bit(*shape, compute_dtype=dtype, quant_type="nf4")
            four_bits.weight = layers.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            four_bits.bias = bias
            denoiser.set_submodule(name, four_bits)


def _set_attention(denoiser: Any, name: str) -> None:
    kind = type(denoiser).__name__
    processors = getattr(denoiser, "attn_processors", {}).values()
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise BadInput(f"The attention of a {kind} has no backends; leave the attention out.")
    try:
        denoiser.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadInput(f"A {kind} cannot use the attention '{name}': {reason}.") from error


def offload_parts(pipeline: Any, how: str, device: torch.device) -> None:
    """Offload the parts of a pipeline, which are on the CPU.

    Args:
        pipeline: The pipeline of diffusers.
        how: The way: model, group or sequential.
        device: The device that they run on.
    """
    if how == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif how == "sequential":
        from accelerate import cpu_offload

        # The pipeline's own function renames the device cpu to cpu:0, with which accelerate fails.
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                cpu_offload(part, device, offload_buffers=bool(vars(part)["_parameters"]))
    elif how == "group":
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")


def is_group_offloaded(network: Any) -> bool:
    """Whether groups of a network's layers are offloaded, which gives wrong gradients."""
    hooks: list[Any] = [getattr(module, "_diffusers_hook", None) for module in network.modules()]
    return any("group_offloading" in hook.hooks for hook in hooks if hook is not None)
