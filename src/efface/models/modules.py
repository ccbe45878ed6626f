"""Modules that torch has compiled, or whose projections diffusers has fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def plain(module: Any) -> Any:
    """The module inside `torch.compile(module)`; any other module is returned unchanged."""
    return getattr(module, "_orig_mod", module)


def state_of(module: Any) -> Mapping[str, Tensor]:
    """Its tensors by their names in its file, even if it is compiled or has a LoRA loaded."""
    return {_without_lora(name): tensor for name, tensor in plain(module).state_dict().items()}


def parameters_of(module: Any) -> Mapping[str, nn.Parameter]:
    """Its parameters by their names in its file, even if it is compiled, has a LoRA loaded, or is quantised."""
    return {_without_lora(name): parameter for name, parameter in plain(module).named_parameters()}


def _without_lora(name: str) -> str:
    return name.replace(".base_layer.", ".")  # a loaded LoRA moves a weight one level further down


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of it runs as a compiled graph, which does not see hooks that are added later."""
    return any(map(_is_graph, [module, *plain(module).modules()]))


def is_compiled_at(module: nn.Module, name: str) -> bool:
    """Whether a part of it, by name, runs in a compiled graph: it or a module around it is compiled."""
    names = name.split(".")
    around = [".".join(names[:count]) for count in range(1, len(names) + 1)]
    return any(map(_is_graph, [module, *(plain(module).get_submodule(outer) for outer in around)]))


def _is_graph(part: Any) -> bool:
    return (
        hasattr(part, "_orig_mod")
        or part._compiled_call_impl is not None
        or hasattr(part.forward, "_torchdynamo_orig_callable")
    )


def has_fused_projections(denoiser: Any) -> bool:
    """Whether keys and values are computed by copies of the weights, made by `fuse_qkv_projections`."""
    if hasattr(denoiser, "original_attn_processors"):
        # U-Nets store their processors here when they are fused.
        return bool(denoiser.original_attn_processors)
    return any(getattr(part, "fused_projections", False) for part in denoiser.modules())


def unfuse(denoiser: Any) -> None:
    """Undo fused projections, whose copies would not follow a change of the weights."""
    if has_fused_projections(denoiser):
        denoiser.unfuse_qkv_projections()
        if hasattr(denoiser, "original_attn_processors"):
            denoiser.original_attn_processors = None  # otherwise the pipeline's own unfusing fails afterwards
