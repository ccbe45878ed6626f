"""The targets of the null-space edit: values of one layer for which the denoiser reads the concept as its guide.

For copies i = 1 .. b of the concept's prompt, each with its own image x_0 from the base, timestep t and noise n:

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n
    z   = argmin_z mean | e(x_t, t, text with z in the layer) - e(x_t, t, base's text of the guide) |^2

by a few steps of Adam, starting from the current output of the layer. The gradient flows through the denoiser and the
later layers of the text encoder, to z alone. With `target=text`, the embeddings themselves are compared, and no image
is needed:

    z = argmin_z | text with z in the layer - base's text of the guide |^2

With `sigma_noise`, x_t = x_0 + sqrt((1 - a_t) / a_t) n: the scale of LMS,
without the scaling that the denoiser expects.

Shapes: b prompts or images, T tokens, d width of the encoder, h width inside the MLP, so that `mlp.fc2` is (d, h).
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
from efface.models.denoising import Conditions, NoiseSchedule
from efface.models.model import Model
from efface.models.placement import check_differentiable
from efface.models.text.encoding import encode_ids
from efface.models.text.tokens import token_ids, with_all_vectors

_FC2 = re.compile(r"(?:^|\.)layers\.(\d+)\.mlp\.fc2$")


class EditableTextEncoder:
    """A float32 copy of a model's CLIP text encoder, with access to the second map, `mlp.fc2`, of each MLP.

    The inputs and outputs of these maps can be read and replaced, and their weights overwritten. The model's own
    encoder does not change.

    Args:
        model: A model whose denoiser reads one CLIP text encoder.
        layers: The layers to edit, in order.
        clip_skip: The number of last layers of the text encoder to skip.

    Raises:
        BadInput: The model has no such encoder, or the denoiser does not read one of the layers.
    """

    def __init__(self, model: Model, layers: Sequence[int], clip_skip: int | None) -> None:
        paths: dict[int, str] = {}
        if model.one_clip_encoder:
            names = [match for name, _ in model.text_encoder.named_modules() if (match := _FC2.search(name))]
            paths = {int(match.group(1)): match.string for match in names}
        if not paths:
            raise BadInput(f"nullspace edits the one CLIP text encoder of Stable Diffusion; {model.name} has none.")
        self._skip = clip_skip or 0
        read = len(paths) - self._skip
        if max(layers) >= read:
            raise BadInput(
                f"The denoiser of {model.name} reads {read} layers of the text encoder, 0 to {read - 1}, and not "
                f"layer {max(layers)}; set layers, e.g. -s layers={','.join(map(str, range(max(0, read - 3), read)))}."
            )
        for part in ("text_encoder", "denoiser"):
            check_differentiable(f"the {part}", model.part(part))
        self.encoder: Any = copy.deepcopy(model.text_encoder).float().eval().requires_grad_(False)
        self.names = {layer: f"text_encoder.{paths[layer]}.weight" for layer in layers}
        self._fc2: dict[int, nn.Linear] = {layer: self.encoder.get_submodule(paths[layer]) for layer in layers}
        self._tokenizer, self._longest = model.tokenizer, model.max_tokens

    def check_lengths(self, prompts: Sequence[str]) -> None:
        """Reject prompts that the tokenizer would truncate.

        Raises:
            BadRequest: A prompt has too many tokens.
        """
        if prompts:
            token_ids(self._tokenizer, list(prompts), self._longest, truncate=False)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """The token ids (b, T), padded, and truncated if they are too long."""
        texts = with_all_vectors(self._tokenizer, prompts)
        padded = self._tokenizer(
            texts, padding="max_length", max_length=self._longest, truncation=True, return_tensors="pt"
        )
        return padded["input_ids"].to(self.encoder.device)

    def weight(self, layer: int) -> Tensor:
        """The weight W of a layer, (d, h), float64."""
        return self._fc2[layer].weight.detach().cpu().double()

    def values(self, layer: int, keys: Tensor) -> Tensor:
        """The values W k, (..., d), for keys (..., h), float32."""
        return keys @ self._fc2[layer].weight.T

    @torch.no_grad()
    def write(self, layer: int, weight: Tensor) -> None:
        """Replace the weight W, (d, h)."""
        self._fc2[layer].weight.copy_(weight)

    @torch.no_grad()
    def keys(self, ids: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """The keys of each layer for token ids (b, T): the inputs of `mlp.fc2`, (b, T, h)."""
        taken: dict[int, Tensor] = {}
        with _hooked({self._fc2[layer]: _taking(taken, layer) for layer in layers}):
            self.encoder(ids)
        return taken

    def text(self, ids: Tensor, layer: int | None = None, values: Tensor | None = None) -> Tensor:
        """The text that the denoiser reads, with given values in place of W k in one layer.

        Gradients flow to `values` through the later layers.

        Args:
            ids: The token ids, (b, T).
            layer: The layer of the values; None to replace none.
            values: The values, (b, T, d).

        Returns:
            The text embeddings, (b, T, d).
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


_SEED_OFFSET = 2**40  # images start from seeds of 32 bits; the noise of x_t must differ from theirs


class Targets:
    """Optimises targets for one concept after the other.

    Args:
        model: The base, which does not change.
        encoder: The text encoder during editing.
        latents: Samples latents with the base.
        config: The settings.

    Raises:
        BadInput: The model is in float16, in which gradients vanish.
    """

    def __init__(self, model: Model, encoder: EditableTextEncoder, latents: Latents, config: NullspaceConfig) -> None:
        self._model, self._encoder, self._latents, self._config = model, encoder, latents, config
        if model.dtype == torch.float16:
            raise BadInput(f"Gradients through {model.name} vanish in float16; open it in float32 or bfloat16.")
        self._schedule = model.noise_schedule()
        self._random = torch.Generator().manual_seed(_SEED_OFFSET + config.seed)

    def draw(self, prompt: str, guides: Tensor, batch: int, clip_skip: int | None) -> None:
        """Sample new images of a concept, and set its guides.

        Args:
            prompt: The prompt of the concept.
            guides: The base's text embedding of the guide of each of the u edited prompts, (u, T, d).
            batch: The number of earlier batches, which determines the seeds.
            clip_skip: The number of last layers of the text encoder to skip.
        """
        config = self._config
        self._guides = self._for_images(guides.to(self._model.device))
        if config.target == "text":
            return
        first = config.seed + batch * config.batch_size
        self._images = self._latents(
            prompt,
            range(first, first + config.batch_size),
            steps=config.sampling_steps,
            guidance=config.guidance_scale,
            sampler=config.sampler,
            clip_skip=clip_skip,
        )
        self._images = self._images[: len(self._guides)]

    def _for_images(self, of_prompts: Tensor) -> Tensor:
        """Copies of the entries of u prompts (u, ...), one for each image: prompt by prompt, equally many of each."""
        return of_prompts.repeat_interleave(self._config.batch_size // len(of_prompts), dim=0)

    def optimised(self, ids: Tensor, layer: int, keys: Tensor) -> Tensor:
        """Optimise the target z of a layer for each image, and take the mean of each prompt.

        Args:
            ids: The token ids of the u prompts, (u, T).
            layer: The layer.
            keys: The inputs of the layer for the prompts, (u, T, h).

        Returns:
            The targets, (u, T, d), float64.
        """
        config = self._config
        with torch.no_grad():
            start = self._encoder.values(layer, keys)
        loss = self.loss(ids, layer)
        z = self._for_images(start).clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=config.lr)
        with torch.enable_grad():
            for _ in range(config.adam_steps):
                (z.grad,) = torch.autograd.grad(loss(z), z)
                adam.step()
        return z.detach().cpu().double().unflatten(0, (len(ids), -1)).mean(1)

    def loss(self, ids: Tensor, layer: int) -> Callable[[Tensor], Tensor]:
        """The loss as a function of a layer's values z (b, T, d), for token ids (u, T) and new timesteps and noise."""
        if self._config.target == "text":
            ids = self._for_images(ids)
            return lambda z: F.mse_loss(self._encoder.text(ids, layer, z), self._guides)
        config, copies = self._config, len(self._images)
        t = torch.randint(config.first_timestep, config.last_timestep + 1, (copies,), generator=self._random)
        noise = torch.randn(self._images.shape, generator=self._random)
        add_noise = self._add_unscaled_noise if config.sigma_noise else self._schedule.add_noise
        noisy = add_noise(self._images.cpu(), noise, t).to(self._model.device)
        t, ids = t.to(self._model.device), self._for_images(ids)
        with torch.no_grad():
            wanted = self._model.predict(noisy, t, Conditions(self._guides))

        def loss(z: Tensor) -> Tensor:
            text = self._encoder.text(ids, layer, z)
            return F.mse_loss(self._model.predict(noisy, t, Conditions(text)), wanted)

        return loss

    def _add_unscaled_noise(self, pictures: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy latents x_t of x_0 (b, C, h, w) for `sigma_noise`; see the module."""
        assert isinstance(self._schedule, NoiseSchedule)
        a = self._schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        return pictures + ((1 - a) / a).sqrt() * noise
