"""Opening networks of transformers by folder or hub id: safetensors only, whole, and with PIL's pictures."""

from __future__ import annotations

from typing import Any

import torch

from efface.errors import BadInput
from efface.models.load import quiet


def open_network(
    kind: Any, weights: str, what: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """A network in evaluation mode, without gradients.

    Args:
        kind: The class, or an auto class.
        weights: Folder or hub id.
        what: The network in words, for messages ("a CLIP model").
        device: Where it goes.
        dtype: Of its weights.

    Raises:
        BadInput: There is no such network, it is of another kind, or weights are missing from it.
    """
    network, found = open_part(kind, weights, what, use_safetensors=True, dtype=dtype, output_loading_info=True)
    # transformers would draw what is missing at random: a judge that guesses.
    if missing := sorted(found["missing_keys"]):
        raise BadInput(f"Cannot open {what} at '{weights}': {missing[0]} and {len(missing) - 1} more are missing.")
    return network.eval().requires_grad_(False).to(device)


def open_part(kind: Any, weights: str, what: str, **options: Any) -> Any:
    """`kind.from_pretrained`, with every way in which it fails told in one line.

    Raises:
        BadInput: It cannot be opened.
    """
    from safetensors import SafetensorError

    try:
        with quiet():
            return kind.from_pretrained(weights, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"Cannot open {what} at '{weights}': {reason}") from error


def image_processor(weights: str) -> Any:
    """The image processor, by PIL whatever else is installed, since torchvision's gives other pixels."""
    from transformers import AutoImageProcessor

    return open_part(AutoImageProcessor, weights, "an image processor", backend="pil")
