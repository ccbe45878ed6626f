"""CLIP's text encoder in plain torch on the tensors of a file, for runs that only need embeddings of prompts.

Importing the one of transformers takes longer than embedding a few prompts. With LN a layer norm, for every layer:

    x_0 = E[ids] + P,   x <- x + A(LN_1(x)),   x <- x + W_2 act(W_1 LN_2(x) + b_1) + b_2,   result LN_f(x)

where A is causal multi-head attention. Paper: https://arxiv.org/abs/2103.00020. Tensor names and operations are those
of `transformers/models/clip/modeling_clip.py`.

Shapes: n prompts, T tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from efface.models.storage.completeness import check_further
from efface.models.storage.folder import Folder
from efface.models.text.encoding import check_ids

_PART, _KIND = "text_encoder", "CLIPTextModel"
_PREFIX = "text_model."  # prefix of all names in files of transformers 4
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"quick_gelu": _quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True, eq=False)
class PlainClipEncoder:
    """A CLIP text encoder.

    Attributes:
        config: Its configuration in the format of transformers.
        tensors: Its weights by name.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, folder: Folder, device: torch.device, dtype: torch.dtype) -> PlainClipEncoder | None:
        """The text encoder of a folder, mapped into memory; None if any detail of it is not supported here.

        Args:
            folder: The folder.
            device: The device of the weights.
            dtype: The type of the weights.
        """
        config = folder.config(_PART)
        if folder.index().get(_PART) != ["transformers", _KIND]:
            return None
        if config.get("hidden_act") not in _ACTIVATIONS or "quantization_config" in config:
            return None
        try:
            shapes, has_heads = _shapes(config), config["hidden_size"] % config["num_attention_heads"] == 0
        except KeyError:
            return None
        if not has_heads or not isinstance(config.get("layer_norm_eps"), float):
            return None
        stored = {name.removeprefix(_PREFIX): name for name in folder.names(_PART)}
        if not shapes.keys() <= stored.keys():
            return None
        check_further(folder.place(_PART), shapes.keys(), stored.keys() - shapes.keys())
        wanted = {stored[name] for name in shapes}
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in folder.tensors(_PART, wanted)}
        if any(tensors[name].shape != shape for name, shape in shapes.items()):
            return None
        return cls(config, {name: tensor.to(device, dtype) for name, tensor in tensors.items()})

    def __call__(self, ids: Tensor, skip: int = 0) -> Tensor:
        """Hidden states of ids (n, T) after all layers except the last `skip`, normalised, (n, T, d).

        Raises:
            BadFile: The encoder has no embedding of an id.
        """
        check_ids(ids, len(self.tensors["embeddings.token_embedding.weight"]))
        ids = ids.to(self.tensors["embeddings.token_embedding.weight"].device)
        x = F.embedding(ids, self.tensors["embeddings.token_embedding.weight"])
        x = x + self.tensors["embeddings.position_embedding.weight"][: ids.shape[1]]
        for layer in range(self.config["num_hidden_layers"] - skip):
            at = f"encoder.layers.{layer}"
            x = x + self._attention(self._norm(x, f"{at}.layer_norm1"), f"{at}.self_attn")
            inner = self._linear(self._norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
            x = x + self._linear(_ACTIVATIONS[self.config["hidden_act"]](inner), f"{at}.mlp.fc2")
        return self._norm(x, "final_layer_norm")

    @property
    def norm(self) -> torch.nn.LayerNorm:
        """The final layer norm LN_f."""
        scale, shift = (self.tensors[f"final_layer_norm.{name}"] for name in ("weight", "bias"))
        norm = torch.nn.LayerNorm(scale.shape, self.config["layer_norm_eps"], device="meta")
        norm.weight, norm.bias = (torch.nn.Parameter(tensor, requires_grad=False) for tensor in (scale, shift))
        return norm

    def _attention(self, x: Tensor, at: str) -> Tensor:
        heads = self.config["num_attention_heads"]
        q, k, v = (self._linear(x, f"{at}.{name}").unflatten(2, (heads, -1)).transpose(1, 2) for name in _ATTENTION[:3])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._linear(mixed.transpose(1, 2).flatten(2), f"{at}.out_proj")

    def _linear(self, x: Tensor, at: str) -> Tensor:
        return F.linear(x, self.tensors[f"{at}.weight"], self.tensors[f"{at}.bias"])

    def _norm(self, x: Tensor, at: str) -> Tensor:
        scale, shift = self.tensors[f"{at}.weight"], self.tensors[f"{at}.bias"]
        return F.layer_norm(x, scale.shape, scale, shift, self.config["layer_norm_eps"])


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name."""
    d, inner = config["hidden_size"], config["intermediate_size"]
    linear = {f"self_attn.{name}": (d, d) for name in _ATTENTION} | {"mlp.fc1": (inner, d), "mlp.fc2": (d, inner)}
    norms = ["final_layer_norm"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (config["vocab_size"], d),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], d),
    }
    for at in (f"encoder.layers.{layer}" for layer in range(config["num_hidden_layers"])):
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        for name, shape in linear.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    return shapes
