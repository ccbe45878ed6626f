"""Targets of the null-space edit: values of one layer with which the denoiser takes the concept for its guide.

For copies i = 1 .. b of the concept's prompt, each with its own picture x_0, timestep t and noise n, drawn by the base:

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n
    z   = argmin_z mean | e(x_t, t, text with z in the layer) - e(x_t, t, base's text of the guide) |^2

by a few steps of Adam from what the layer puts out by now. The gradient runs through the later layers of the text
encoder and the denoiser, to z alone. With `sigma_noise`, x_t = x_0 + sqrt((1 - a_t) / a_t) n: the space of LMS, without
the scaling that the denoiser needs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import BadInput
from efface.methods.base import Latents
from efface.methods.trained.nullspace.config import NullspaceConfig
from efface.models.denoising import Conditions
from efface.models.model import Model
from efface.models.text.encoding import encode_ids

# A CLIP text encoder whose second MLP maps, `mlp.fc2`, are read, replaced and written over.
#
# Shapes: b prompts, T tokens, d width of the encoder, h width inside the MLP: fc2 is (d, h).


_FC2 = re.compile(r"(?:^|\.)layers\.(\d+)\.mlp\.fc2$")


class EditableTextEncoder:
    """A float32 copy of a model's text encoder; the model's own stays as it is.

    Args:
        model: Of a family whose denoiser reads one CLIP text encoder.
        layers: Those to be edited, in order.
        clip_skip: How many of the last layers the denoiser's text skips.

    Raises:
        BadInput: There is no such encoder, or not all of those layers are in it and read by the denoiser.
    """

    def __init__(self, model: Model, layers: Sequence[int], clip_skip: int | None) -> None:
        found: dict[int, str] = {}
        if model.one_clip_encoder:
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
            return encode_ids(self.encoder, ids, self._skip)


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


_APART = 2**40  # keeps the noise of x_t apart from that which pictures start from, whose seeds are 32 bits


class Targets:
    """Optimises targets for one concept after the other.

    Args:
        model: The base, which is only read.
        tower: The text encoder as it is edited.
        latents: Draws pictures by the base.
        config: The method's.

    Raises:
        BadInput: The model is in a type that gradients do not survive.
    """

    def __init__(self, model: Model, tower: EditableTextEncoder, latents: Latents, config: NullspaceConfig) -> None:
        self._model, self._tower, self._latents, self._config = model, tower, latents, config
        if model.dtype == torch.float16:
            raise BadInput(f"Gradients through {model.name} vanish in float16; open it in float32 or bfloat16.")
        self._schedule = model.noise_schedule()
        self._random = torch.Generator().manual_seed(_APART + config.seed)

    def draw(self, prompt: str, guide: Tensor, batch: int, clip_skip: int | None) -> None:
        """New pictures of a concept, and what it shall be read as.

        Args:
            prompt: The concept's.
            guide: The base's text of the guide, (T, d).
            batch: How many batches were drawn before; decides the seeds.
            clip_skip: As the request's.
        """
        config = self._config
        first = config.seed + batch * config.batch_size
        self._pictures = self._latents(
            prompt,
            range(first, first + config.batch_size),
            steps=config.sampling_steps,
            guidance=config.guidance_scale,
            sampler=config.sampler,
            clip_skip=clip_skip,
        )
        self._guide = guide.to(self._model.device).expand(config.batch_size, -1, -1)

    def optimised(self, ids: Tensor, layer: int, keys: Tensor) -> Tensor:
        """z for each picture, (b, T, d), of a layer with inputs `keys` (T, h) for the prompt `ids` (1, T)."""
        config, copies = self._config, self._config.batch_size
        with torch.no_grad():
            start = self._tower.values(layer, keys)
        loss = self.loss(ids, layer)
        z = start.expand(copies, -1, -1).clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=config.lr)
        with torch.enable_grad():
            for _ in range(config.adam_steps):
                (z.grad,) = torch.autograd.grad(loss(z), z)
                adam.step()
        return z.detach()

    def loss(self, ids: Tensor, layer: int) -> Callable[[Tensor], Tensor]:
        """The loss of a layer's values z (b, T, d), for timesteps and noise that are drawn now."""
        config, copies = self._config, self._config.batch_size
        t = torch.randint(config.first_timestep, config.last_timestep + 1, (copies,), generator=self._random)
        noise = torch.randn(self._pictures.shape, generator=self._random)
        add_noise = self._add_unscaled_noise if config.sigma_noise else self._schedule.add_noise
        noisy = add_noise(self._pictures.cpu(), noise, t).to(self._model.device)
        t, ids = t.to(self._model.device), ids.expand(copies, -1)
        with torch.no_grad():
            wanted = self._model.predict(noisy, t, Conditions(self._guide))

        def loss(z: Tensor) -> Tensor:
            text = self._tower.text(ids, layer, z)
            return F.mse_loss(self._model.predict(noisy, t, Conditions(text)), wanted)

        return loss

    def _add_unscaled_noise(self, pictures: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of x_0 (b, C, h, w) for `sigma_noise`; see the module."""
        a = self._schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        return pictures + ((1 - a) / a).sqrt() * noise
