"""Memory of a model's parts and of its work, from configurations and headers alone: no weights are loaded.

A network is built with fake tensors, which have shapes but no numbers, and run once; the largest sum of the sizes of
all tensors that exist at one time is the estimate of its peak. Attention does not store its matrix, as in the kernels
that torch chooses. Memory that the libraries need themselves, such as a GPU's context of 0.5 to 1 GiB, is not included.

Shapes: b samples, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efface.errors import BadInput
from efface.models.checkpointing import checkpointed
from efface.models.parameters import call_with
from efface.models.pretrained import class_of
from efface.models.storage.folder import Folder, has_weights
from efface.models.storage.headers import read_headers
from efface.models.storage.single_file import SingleFile

_T5_TOKENS, _CLIP_TOKENS = 256, 77
_ROWS = 2048  # of a weight, converted to float64 at once
_FLUX_TOKENS = {True: 512, False: 256}  # with and without a distilled guidance scale


@dataclass(frozen=True)
class PartSize:
    """The size of one part.

    Attributes:
        parameters: The number of its parameters.
        largest: The number of entries of its largest tensor.
        file_bytes: The size of its tensors in the files; None if they are not on this machine.
    """

    parameters: int
    largest: int
    file_bytes: int | None


def part_sizes(folder: Folder) -> dict[str, PartSize]:
    """The size of every part with weights, by name: from the headers of its files, or else from its configuration.

    Args:
        folder: The model's files.

    Raises:
        BadFile: A file cannot be read.
    """
    sizes: dict[str, PartSize] = {}
    for part, value in folder.index().items():
        if part == "safety_checker" or not isinstance(value, list) or not value[0]:
            continue
        if not has_weights(class_of(folder, part)):
            continue
        files = () if isinstance(folder, SingleFile) else folder.here(part)
        if files:
            tensors = read_headers(folder.weights(part)).values()
            counts, file_bytes = [tensor.numel for tensor in tensors], sum(tensor.nbytes for tensor in tensors)
        else:
            with torch.device("meta"):
                counts, file_bytes = (
                    [parameter.numel() for parameter in folder.built(part, class_of(folder, part)).parameters()],
                    None,
                )
        sizes[part] = PartSize(sum(counts), max(counts), file_bytes)
    return sizes


@dataclass(frozen=True)
class WorkMemory:
    """Bytes of activations and gradients at the peak, besides the weights.

    Attributes:
        predict: One prediction of the denoiser, without gradient.
        step: One training step: the prediction with gradient, and its backward pass.
        step_checkpointed: The same with gradient checkpointing.
        decode: The decoding of one image by the autoencoder.
        linear: The number of entries of the denoiser's linear maps.
        trained: The number of the trained parameters; 0 without a training.
    """

    predict: int
    step: int | None
    step_checkpointed: int | None
    decode: int
    linear: int
    trained: int = 0


def work_memory(
    folder: Folder,
    part: str,
    size: int | None,
    rows: int,
    dtype: torch.dtype,
    student: Callable[[nn.Module], nn.Module] | None = None,
) -> WorkMemory | None:
    """The memory of a denoiser's and an autoencoder's work; None for a denoiser of an unknown class.

    Args:
        folder: The model's files.
        part: The name of the denoiser's part.
        size: The side of the image in pixels; None is the default of the model.
        rows: The rows of a batch of predictions without gradient; a training step has one row.
        dtype: The type of the weights.
        student: Makes the module of the trained parameters of a denoiser, which returns what differs from the
            denoiser's own parameters; None for no training.

    Raises:
        BadInput: The image size does not suit the model.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _default_dtype(dtype):
        denoiser = folder.built(part, class_of(folder, part)).requires_grad_(False).eval()
        vae: Any = folder.built("vae", class_of(folder, "vae")).requires_grad_(False).eval()
        side = _latent_side(folder, part, size)
        if denoiser_arguments(denoiser, side, 1, dtype) is None:
            return None
        predict = _peak(lambda: denoiser(**_needed(denoiser, side, rows, dtype)))
        latents = torch.zeros(1, vae.config.latent_channels, side, side, dtype=dtype)
        decode = _peak(lambda: vae.decode(latents))
        linear = sum(module.weight.numel() for module in denoiser.modules() if type(module) is nn.Linear)
        if student is None:
            return WorkMemory(predict, None, None, decode, linear)
        weights = student(denoiser)
        step = _step(denoiser, weights, side, dtype)
        with checkpointed(denoiser):
            with_checkpoints = _step(denoiser, weights, side, dtype)
        trained = sum(parameter.numel() for parameter in weights.parameters())
        return WorkMemory(predict, step, with_checkpoints, decode, linear, trained)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _step(denoiser: nn.Module, weights: nn.Module, side: int, dtype: torch.dtype) -> int:
    """The peak of a training step."""
    arguments = _needed(denoiser, side, 1, dtype)

    def run() -> None:
        call_with(denoiser, weights(), (), arguments)[0].float().square().mean().backward()

    weights.zero_grad()
    return _peak(run, grad=True)


def _latent_side(folder: Folder, part: str, size: int | None) -> int:
    factor = 2 ** (len(folder.config("vae").get("block_out_channels", (1,))) - 1)
    if size is None:
        return int(folder.config(part).get("sample_size") or 128)
    if size % (2 * factor):
        raise BadInput(f"An image of {size} pixels cannot be planned; give a multiple of {2 * factor}.")
    return size // factor


def _needed(denoiser: nn.Module, side: int, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    arguments = denoiser_arguments(denoiser, side, rows, dtype)
    assert arguments is not None
    return arguments


def denoiser_arguments(denoiser: Any, side: int, rows: int, dtype: torch.dtype) -> dict[str, Any] | None:
    """Arguments of a denoiser's call, with any numbers; None for an unknown class.

    Args:
        denoiser: The denoiser.
        side: The side of the latents.
        rows: The number of samples.
        dtype: The type of the arguments.
    """
    config, kind = denoiser.config, type(denoiser).__name__
    time: dict[str, Any] = {"timestep": torch.ones(rows), "return_dict": False}

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=dtype)

    if kind == "UNet2DConditionModel":
        text = zeros(rows, _CLIP_TOKENS, config.cross_attention_dim)
        arguments = {"sample": zeros(rows, config.in_channels, side, side), "encoder_hidden_states": text, **time}
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            arguments["added_cond_kwargs"] = {"text_embeds": zeros(rows, pooled), "time_ids": zeros(rows, 6)}
        return arguments
    if kind == "SD3Transformer2DModel":
        text = zeros(rows, _CLIP_TOKENS + _T5_TOKENS, config.joint_attention_dim)
        latents, pooled = zeros(rows, config.in_channels, side, side), zeros(rows, config.pooled_projection_dim)
        return {"hidden_states": latents, "encoder_hidden_states": text, "pooled_projections": pooled, **time}
    if kind == "FluxTransformer2DModel":
        tokens, words = (side // 2) ** 2, _FLUX_TOKENS[bool(config.guidance_embeds)]
        return {
            "hidden_states": zeros(rows, tokens, config.in_channels),
            "encoder_hidden_states": zeros(rows, words, config.joint_attention_dim),
            "pooled_projections": zeros(rows, config.pooled_projection_dim),
            "img_ids": torch.zeros(tokens, 3),
            "txt_ids": torch.zeros(words, 3),
            "guidance": torch.ones(rows) if config.guidance_embeds else None,
            **time,
        }
    return None


def _peak(run: Callable[[], object], grad: bool = False) -> int:
    with torch.set_grad_enabled(grad), _Meter() as meter:
        run()
    return meter.peak


class _Meter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is active, and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), before)
        return result

    def _add(self, storage: Any, of_arguments: set[int]) -> None:
        key = id(storage)
        if key in self._alive or key in of_arguments:  # a view, or a change in place
            return
        size = int(storage.nbytes())
        self._alive[key] = (weakref.ref(storage, lambda _: self._remove(key)), size)
        self._now += size
        self.peak = max(self.peak, self._now)

    def _remove(self, key: int) -> None:
        self._now -= self._alive.pop(key, (None, 0))[1]


def solve_memory(width: int, encoders: int, bytes_each: int, largest_reader: int) -> int:
    """Bytes of a closed form at its peak: the text encoders, S with its decomposition, and one weight that reads text.

    Args:
        width: The width d of a text embedding.
        encoders: The number of parameters of the text encoders.
        bytes_each: The size of one parameter.
        largest_reader: The number of entries of the largest such weight.
    """
    return encoders * bytes_each + 3 * width**2 * 8 + largest_reader * 4 + min(_ROWS, width) * width * 8
