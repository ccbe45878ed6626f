"""What torch and diffusers do to a module between loading and running: compile it, fuse its projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def plain(module: Any) -> Any:
    """The module inside `torch.compile(module)`; any other as it is."""
    return getattr(module, "_orig_mod", module)


def state_of(module: Any) -> Mapping[str, Tensor]:
    """Its tensors by the names that they have in its file, whatever was done to it."""
    # A loaded LoRA puts a weight one level further down, and still gives it by its own name.
    return {name.replace(".base_layer.", "."): tensor for name, tensor in plain(module).state_dict().items()}


def is_compiled(module: nn.Module) -> bool:
    """Whether any of it runs as a compiled graph, which does not see hooks that come later."""
    parts: list[Any] = [module, *plain(module).modules()]
    return any(
        hasattr(part, "_orig_mod")
        or part._compiled_call_impl is not None
        or hasattr(part.forward, "_torchdynamo_orig_callable")
        for part in parts
    )


def has_fused_projections(denoiser: Any) -> bool:
    """Whether keys and values are read by copies of the weights, made by `fuse_qkv_projections`."""
    if hasattr(denoiser, "original_attn_processors"):
        # U-Nets: what to go back to. Unfusing takes the entries out one by one.
        return bool(denoiser.original_attn_processors)
    return any(getattr(part, "fused_projections", False) for part in denoiser.modules())


def unfuse(denoiser: Any) -> None:
    """Undo fused projections, whose copies would go on reading with the weights they were made of."""
    if has_fused_projections(denoiser):
        denoiser.unfuse_qkv_projections()
        if hasattr(denoiser, "original_attn_processors"):
            denoiser.original_attn_processors = None  # else the pipeline's own unfusing fails from now on
