"""The shared parts of `cie` and `sepce`: the correlation loss, the noisy images of concepts, and when to stop.

    r(x_t) = e(x_t, c) - e(x_t, '')               e: a prediction of the trained model, r0(x_t): the same of the base
    L      = mean r(x_t) r0(x_t)                  over all elements; signed, so that it can be negative
    m_0 = L_0,  m_n = 0.9 m_{n-1} + 0.1 L_n       stop after step n > 10 (the first is n = 0) once m_n < threshold

x_t is a noisy image of the concept, sampled by the base. See `cie` for the sources.

Shapes: k concepts, n images of each, b of them in a batch, C latent channels, h and w latent size.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from efface.errors import BadFile
from efface.methods.base import Latents, Pictures
from efface.methods.trained.ablate.images import square
from efface.methods.training.objective import TrainingConfig, seeded
from efface.models.denoising import check_encodes, latents_of_encoding
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request

_ALPHA, _FIRST = 0.9, 11
_AT_ONCE = 32  # images per call of the progress callback


class CorrelationConfig(TrainingConfig):
    """The settings of both methods, by the reference's names where they exist.

    Attributes:
        iter_break: The largest number of steps of Adam.
        batch_size: The samples of one forward pass.
        accumulate_grads: Whether gradients are never set to zero, as in the published scripts, by an oversight.
        images: The number of images of each concept; the published scripts use 1000, each once.
        datapath: A folder of images of the concept to use instead, or of one folder per concept. Each image is used
            once, in order, as in the published scripts, so their number bounds the steps.
        repeat_images: Whether the images of `datapath` are used again, in a random order, a new one in each epoch.
        sampling_steps: The sampling steps of an image.
        guidance_scale: The guidance scale of an image.
        sampler: The sampler of an image; the published one is `lms`, with 100 steps.
    """

    iter_break: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    accumulate_grads: bool = False
    images: int = Field(default=50, ge=1)
    datapath: str | None = None
    repeat_images: bool = False
    sampling_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    sampler: str = "dpm++"


class NoisyImages:
    """The noisy images of concepts.

    They are sampled when they are first needed, and used in a random order, a new one in each epoch; or they are read
    from a folder, and each is used once, in order, or with `repeat_images` as sampled ones are.

    Attributes:
        iterations: The largest number of steps.
        data: A digest of the images of the folder; empty for sampled ones.

    Args:
        model: The base, which samples the images.
        request: The request with the concepts.
        config: The number of images, the sampling settings and the seed.
        latents: Samples the latents.
        pictures: Reads the images of a folder.
        progress: The progress callback.

    Raises:
        BadFile: The folder has no images of a concept, or fewer than one step needs.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        config: CorrelationConfig,
        latents: Latents,
        pictures: Pictures,
        progress: Progress | None,
    ) -> None:
        self._request, self._config, self._latents, self._progress = request, config, latents, progress
        self._schedule = model.noise_schedule()
        self._device = model.device
        self._latents_of: dict[str, Tensor] = {}  # x_0 of each concept so far, (n, C, h, w)
        self._model, self._given = model, dict[str, FolderImages]()
        self.iterations, self.data = config.iter_break, ""
        if config.datapath is not None:
            self._given = {name: FolderImages(name, config.datapath, pictures) for name in request.names}
            if not config.repeat_images:
                self._bound_steps(config.datapath)
            self.data = " ".join(given.digest for given in self._given.values())

    def noisy(self, slot: int, step: int) -> tuple[Tensor, Tensor]:
        """One batch of each concept at the same timesteps: x_t (k, b, C, h, w) and t (b,)."""
        for name in self._request.names:
            self._sample(name)
        config, generator = self._config, seeded(self._config.seed, slot, step)
        places = range(step * config.batch_size, (step + 1) * config.batch_size)
        sampled = [self._latents_of[name] for name in self._request.names]
        images = torch.stack([x_0[[self._row(slot, place, len(x_0)) for place in places]] for x_0 in sampled])
        t = torch.randint(self._schedule.timesteps, (len(places),), generator=generator)
        noise = torch.randn(images.shape, generator=generator).to(self._device)
        t = t.to(self._device)
        x = self._schedule.add_noise(images.flatten(0, 1), noise.flatten(0, 1), t.repeat(len(images)))
        return x.unflatten(0, images.shape[:2]), t

    def state(self) -> dict[str, Tensor]:
        """The latents sampled so far, (n, C, h, w), by name."""
        return {f"pictures of {name}": latents for name, latents in self._latents_of.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the latents of `state`, (n, C, h, w)."""
        stored = {name: tensors.get(f"pictures of {name}") for name in self._request.names}
        self._latents_of = {name: latents.to(self._device) for name, latents in stored.items() if latents is not None}

    def _bound_steps(self, folder: str) -> None:
        """Take no more steps than there are images, each used once."""
        self._slots = int(os.environ.get("WORLD_SIZE", "1")) * self._config.gradient_accumulation_steps
        fewest = min(self._given, key=lambda name: self._given[name].count)
        count, wanted = self._given[fewest].count, self.iterations
        self.iterations = min(wanted, count // (self._config.batch_size * self._slots))
        if not self.iterations:
            raise BadFile(f"{folder} has fewer images than one step needs; add some.")
        if self.iterations < wanted:
            warnings.warn(
                f"{folder} has {count} images of '{fewest}', each of which is used once: {self.iterations} steps, not "
                f"{wanted}. Add images, or use them again with -s repeat_images=true.",
                stacklevel=2,
            )

    def _row(self, slot: int, place: int, count: int) -> int:
        """The index of the image at a position in the sequence of one slot, among the `count` images of a concept."""
        config = self._config
        if self._given and not config.repeat_images:
            step, place = divmod(place, config.batch_size)
            return (step * self._slots + slot) * config.batch_size + place
        turn, place = divmod(place, count)
        return int(torch.randperm(count, generator=seeded(config.seed, slot, turn, 0))[place])

    def _sample(self, prompt: str) -> None:
        """Sample the missing images, in the same batches as an uninterrupted run; or encode those of a folder."""
        config = self._config
        if self._given:
            if prompt not in self._latents_of:
                self._latents_of[prompt] = self._given[prompt].latents(self._model, config.seed)
            return
        for first in range(len(self._latents_of.get(prompt, ())), config.images, _AT_ONCE):
            last = min(first + _AT_ONCE, config.images)
            latents = self._latents(
                prompt,
                range(config.seed + first, config.seed + last),
                steps=config.sampling_steps,
                guidance=config.guidance_scale,
                sampler=config.sampler,
                clip_skip=self._request.clip_skip,
            )
            before = [self._latents_of[prompt]] if first else []
            self._latents_of[prompt] = torch.cat([*before, latents.to(self._device)])
            if self._progress:
                self._progress(f"pictures of {prompt}", last, config.images)


class FolderImages:
    """The images of a concept in a folder.

    Args:
        concept: The concept.
        folder: The folder, as for `Pictures.folder_of`.
        pictures: Reads the folder.

    Raises:
        BadFile: The folder has no images of the concept, or some of them cannot be read.
    """

    def __init__(self, concept: str, folder: str, pictures: Pictures) -> None:
        self._folder, self._pictures = pictures.folder_of(concept, Path(folder)), pictures
        digests = [hashlib.sha256(pixels.tobytes()).hexdigest() for _, pixels in pictures.read(self._folder)]
        self.count = len(digests)
        self.digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()

    @torch.no_grad()
    def latents(self, model: Model, seed: int) -> Tensor:
        """The latents that the VAE samples for each image, (n, C, h, w).

        Args:
            model: The model with the VAE.
            seed: The seed of the samples.
        """
        side, vae = model.latent_shape[1] * model.pixels_per_latent, model.vae
        check_encodes(vae)
        latents: list[Tensor] = []
        for index, (_, pixels) in enumerate(self._pictures.read(self._folder)):
            picture = square(torch.from_numpy(pixels.copy()), side)[None] / 127.5 - 1
            encoded = vae.encode(picture.to(model.device, vae.dtype)).latent_dist
            noise = torch.randn(encoded.mean.shape, generator=seeded(seed, index)).to(encoded.mean)
            latents.append(latents_of_encoding((encoded.mean + encoded.std * noise).float(), vae.config))
        return torch.cat(latents)


class Momentum:
    """The running means m of k losses.

    Args:
        k: The number of losses.
        threshold: The value of a mean below which its training stops.
    """

    def __init__(self, k: int, threshold: float) -> None:
        self.values = torch.zeros(k, dtype=torch.float64)
        self._threshold = threshold

    def falls(self, step: int, losses: Sequence[float]) -> Tensor:
        """Update with the losses of a step, counted from 1, and return which trainings to stop, (k,)."""
        values = torch.tensor(losses, dtype=torch.float64)
        self.values = values if step == 1 else _ALPHA * self.values + (1 - _ALPHA) * values
        return (self.values < self._threshold) & (step > _FIRST)
