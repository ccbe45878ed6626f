"""A CLIP text encoder whose second MLP maps, `mlp.fc2`, are read, replaced and written over.

Shapes: b prompts, T tokens, d width of the encoder, h width inside the MLP: fc2 is (d, h).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.models.base import Model

_FC2 = re.compile(r"(?:^|\.)layers\.(\d+)\.mlp\.fc2$")


class TextTower:
    """A float32 copy of a model's text encoder; the model's own stays as it is.

    Args:
        model: of a family whose denoiser reads one CLIP text encoder.
        layers: those to be edited, in order.
        clip_skip: how many of the last layers the denoiser's text skips.

    Raises:
        BadInput: there is no such encoder, or not all of those layers are in it and read by the denoiser.
    """

    def __init__(self, model: Model, layers: Sequence[int], clip_skip: int | None) -> None:
        found: dict[int, str] = {}
        if model.family == "sd":
            names = [match for name, _ in model.text_encoder.named_modules() if (match := _FC2.search(name))]
            found = {int(match.group(1)): match.string for match in names}
        if not found:
            raise BadInput(f"nullspace edits the one CLIP text encoder of Stable Diffusion; {model.name} has none.")
        self._skip = clip_skip or 0
        read = len(found) - self._skip
        if max(layers) >= read:
            raise BadInput(
                f"The denoiser of {model.name} reads {read} layers of the text encoder, 0 to {read - 1}, and not "
                f"layer {max(layers)}; set layers, e.g. -s layers={','.join(map(str, range(max(0, read - 3), read)))}."
            )
        self.encoder: Any = copy.deepcopy(model.text_encoder).float().eval().requires_grad_(False)
        self.names = {layer: f"text_encoder.{found[layer]}.weight" for layer in layers}
        self._fc2: dict[int, nn.Linear] = {layer: self.encoder.get_submodule(found[layer]) for layer in layers}
        self._tokenizer, self._longest = model.tokenizer, model.max_tokens

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (b, T), padded, and cut where they are too long."""
        padded = self._tokenizer(
            list(prompts), padding="max_length", max_length=self._longest, truncation=True, return_tensors="pt"
        )
        return padded["input_ids"].to(self.encoder.device)

    def weight(self, layer: int) -> Tensor:
        """W, (d, h), float64."""
        return self._fc2[layer].weight.detach().cpu().double()

    def values(self, layer: int, keys: Tensor) -> Tensor:
        """W k for keys (..., h), float32."""
        return keys @ self._fc2[layer].weight.T

    @torch.no_grad()
    def write(self, layer: int, weight: Tensor) -> None:
        """Replace W."""
        self._fc2[layer].weight.copy_(weight)

    @torch.no_grad()
    def keys(self, ids: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """What each of `layers` is given for prompts, (b, T, h)."""
        taken: dict[int, Tensor] = {}
        with _hooked({self._fc2[layer]: _taking(taken, layer) for layer in layers}):
            self.encoder(ids)
        return taken

    def text(self, ids: Tensor, layer: int | None = None, values: Tensor | None = None) -> Tensor:
        """What the denoiser reads of prompts, (b, T, d), with `values` (b, T, d) for W k in one layer.

        Gradients flow to `values` through the layers after it.
        """
        hooks = {} if layer is None or values is None else {self._fc2[layer]: _giving(values)}
        with _hooked(hooks):
            if not self._skip:
                return self.encoder(ids)[0]
            states = self.encoder(ids, output_hidden_states=True).hidden_states
        # Families of encoders with a projection have the layers one level further down.
        return getattr(self.encoder, "text_model", self.encoder).final_layer_norm(states[-(self._skip + 1)])


_Hook = Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]


def _taking(taken: dict[int, Tensor], layer: int) -> _Hook:
    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        taken[layer] = args[0]

    return hook


def _giving(values: Tensor) -> _Hook:
    return lambda module, args, output: values + module.bias


@contextmanager
def _hooked(hooks: dict[nn.Linear, _Hook]) -> Generator[None, None, None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
