"""The sampler: jobs to pixels, in batches that do not affect the images.

A loop over diffusers' schedulers instead of a pipeline call, because an evaluation needs what a pipeline does not do:
every prompt is embedded once, the unconditional embedding is shared, each image has its own guidance scale and its own
generator, batches have one shape, and images are decoded together. For one prompt and seed, the result is the image of
the pipeline.

Shapes: b images per batch, C latent channels, h and w latent size, R rows of text, d text width, H and W image size.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface.eraser.eraser import Eraser
from efface.errors import BadInput, BadRequest
from efface.generation.folder import Pixels
from efface.generation.jobs import Job, Sampling
from efface.generation.schedulers import make_scheduler
from efface.models import Model
from efface.models.denoising import Conditions, encoding_of_latents, guided
from efface.models.flow import model_input, scaled_noise, set_timesteps
from efface.progress import Progress

#: Pixels that are decoded together: 256 images of 64 x 64, 4 of 512 x 512.
_DECODED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class _Batch:
    """Jobs that run together: of one size, and all or none with guidance."""

    indices: tuple[int, ...]
    slots: int
    height: int
    width: int
    guided: bool


def sample(
    model: Model,
    jobs: Sequence[Job],
    sampling: Sampling | None = None,
    eraser: Eraser | None = None,
    *,
    strength: float = 1.0,
    force: bool = False,
    progress: Progress | None = None,
    wanted: Container[int] | None = None,
) -> Iterator[tuple[int, Pixels | None]]:
    """Generate the jobs' images, batch by batch.

    Equal calls give equal images, also if only some of them are wanted. Another batch size or order sums in another
    order, which can change a pixel by at most 1 of 255. The eraser is attached only while a batch runs, so that several
    iterators can take turns on one model.

    Args:
        model: The model.
        jobs: What to generate.
        sampling: Sampling settings; None uses the model's default.
        eraser: The eraser to attach meanwhile.
        strength: Strength of the eraser.
        force: Attach the eraser even if the model's text encoder differs from that of its base.
        progress: Called after each batch.
        wanted: Indices of the jobs whose images are missing; None means all. Batches are formed from all jobs and run
            completely or not at all, so that a resumed run equals one that was never interrupted.

    Yields:
        The index of a wanted job and its image, (H, W, 3); None in place of an image whose values are not finite.

    Raises:
        BadInput: The model cannot generate images of the requested size, or from the given embeddings.
    """
    sampling = sampling or Sampling.default(model)
    left = {index for index in range(len(jobs)) if wanted is None or index in wanted}
    if not left:
        return
    if model.call_parameters is not None:
        from efface.generation.by_pipeline import sample_by_pipeline

        with _attached(model, eraser, strength, force):
            pass  # check the eraser's base once
        on = partial(_attached, model, eraser, strength, force=True)
        yield from sample_by_pipeline(model, jobs, sampling, on, progress, left)
        return
    batches = [batch for batch in _batches(model, jobs, sampling) if not left.isdisjoint(batch.indices)]
    with _attached(model, eraser, strength, force):
        texts = _embed(model, jobs, sampling)
    done = 0
    for batch in batches:
        # The base was checked above.
        with _attached(model, eraser, strength, force=True):
            pixels, finite = _decode(model, _latents(model, [jobs[i] for i in batch.indices], batch, texts, sampling))
        for index, image, is_finite in zip(batch.indices, pixels, finite, strict=True):
            if index in left:
                yield index, image if is_finite else None
                done += 1
        if progress:
            progress("images", done, len(left))


def sample_latents(model: Model, jobs: Sequence[Job], sampling: Sampling) -> Tensor:
    """Generate the latents of n jobs of one image size, without decoding them.

    Args:
        model: The model.
        jobs: What to generate.
        sampling: Sampling settings.

    Returns:
        The latents, (n, C, h, w), float32.
    """
    texts, rows = _embed(model, jobs, sampling), dict[int, Tensor]()
    for batch in _batches(model, jobs, sampling):
        latents = _latents(model, [jobs[i] for i in batch.indices], batch, texts, sampling)
        rows.update(zip(batch.indices, latents, strict=True))
    return torch.stack([rows[index] for index in range(len(jobs))])


def _attached(model: Model, eraser: Eraser | None, strength: float, force: bool) -> AbstractContextManager[Any]:
    return nullcontext() if eraser is None else eraser.attach(model, strength, force)


def _batches(model: Model, jobs: Sequence[Job], sampling: Sampling) -> list[_Batch]:
    """Group jobs by size and guidance, each group in batches of one shape; the last one may have unused slots."""
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for index, job in enumerate(jobs):
        guidance = sampling.guidance if job.guidance is None else job.guidance
        groups.setdefault((*image_size(model, job), guidance != 1), []).append(index)
    batches: list[_Batch] = []
    for (height, width, has_guidance), indices in groups.items():
        # 33 jobs with a batch size of 32 run as 17 + 16, not as 32 + 1 with 31 unused slots.
        slots = -(-len(indices) // -(-len(indices) // sampling.batch_size))
        for start in range(0, len(indices), slots):
            batches.append(_Batch(tuple(indices[start : start + slots]), slots, height, width, has_guidance))
    return batches


def image_size(model: Model, job: Job) -> tuple[int, int]:
    """Height and width of a job's image in pixels.

    Raises:
        BadInput: The model cannot generate this size.
    """
    factor = model.pixels_per_latent
    _, h, w = model.latent_shape
    height, width = job.height or h * factor, job.width or w * factor
    if height < factor or width < factor or height % factor or width % factor:
        raise BadInput(f"An image of {width}x{height} pixels cannot be made; give multiples of {factor}.")
    return height, width


def _embed(model: Model, jobs: Sequence[Job], sampling: Sampling) -> dict[str, Tensor]:
    """What the denoiser reads, (R, d), of prompts and negative prompts; a job with an embedding needs no prompt."""
    read = [text for job in jobs for text in (*(() if job.embedding else (job.prompt,)), job.negative or "")]
    prompts = list(dict.fromkeys(read))
    if not prompts:
        return {}
    try:
        embedded = model.embed(prompts, clip_skip=sampling.clip_skip)
    except BadRequest as error:
        # Published prompt files have such prompts, and every pipeline cuts them.
        warnings.warn(f"{error} The prompt is cut there.", stacklevel=3)
        embedded = model.embed(prompts, clip_skip=sampling.clip_skip, truncate=True)
    return dict(zip(prompts, model.denoiser_text(embedded), strict=True))


@torch.no_grad()
def _latents(model: Model, jobs: Sequence[Job], batch: _Batch, texts: dict[str, Tensor], sampling: Sampling) -> Tensor:
    """Generate the latents of one batch, (b, C, h, w)."""
    padded = [*jobs, *[jobs[-1]] * (batch.slots - len(jobs))]
    factor = model.pixels_per_latent
    shape = (model.latent_shape[0], batch.height // factor, batch.width // factor)
    generators = [torch.Generator().manual_seed(job.seed) for job in padded]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    context = torch.stack([job.embedding.tokens if job.embedding else texts[job.prompt] for job in padded])
    guidance = torch.tensor([sampling.guidance if job.guidance is None else job.guidance for job in padded])
    scale = guidance if batch.guided and model.with_guidance is None else None
    if model.with_guidance is not None:
        context = model.with_guidance(context, guidance)
    elif batch.guided:
        context = torch.cat([torch.stack([texts[job.negative or ""] for job in padded]), context])
    return _denoise(model, sampling, noise, context, scale, generators)[: len(jobs)]


def _denoise(
    model: Model,
    sampling: Sampling,
    noise: Tensor,
    context: Tensor,
    guidance: Tensor | None,
    generators: list[torch.Generator],
) -> Tensor:
    """Denoise latents.

    Args:
        model: The model.
        sampling: Sampling settings.
        noise: Noise of unit variance, (b, C, h, w).
        context: Texts of `Model.denoiser_text`, (b, R, d), or with guidance (2b, R, d), the unconditional half first.
        guidance: Guidance scales, (b,); None for no guidance.
        generators: The generator of each image, for the noise that DDIM adds with `eta`.

    Returns:
        The latents, (b, C, h, w), float32.
    """
    scheduler = make_scheduler(model.scheduler_config, sampling)
    set_timesteps(scheduler, sampling.steps, noise.shape[1:], model.device, model.noise_levels)
    latents = scaled_noise(scheduler, noise.to(model.device))
    conditions = Conditions(context).to(model.device, model.dtype)
    scale = None if guidance is None else guidance.to(model.device).view(-1, 1, 1, 1)
    noisy: dict[str, Any] = {"eta": sampling.eta, "generator": generators} if sampling.eta else {}
    for t in scheduler.timesteps:
        x = model_input(scheduler, latents, t).to(model.dtype)
        x = x if scale is None else torch.cat([x, x])
        prediction = model.predict(x, t, conditions)
        if scale is not None:
            unconditional, conditional = prediction.chunk(2)
            prediction = guided(unconditional, conditional, scale)
        latents = scheduler.step(prediction, t, latents, return_dict=False, **noisy)[0]
    return latents


@torch.no_grad()
def _decode(model: Model, latents: Tensor) -> tuple[Pixels, NDArray[np.bool_]]:
    """Decode latents (b, C, h, w) to pixels (b, H, W, 3), and return which images are finite, (b,)."""
    vae = model.vae
    latents = encoding_of_latents(latents, vae.config)
    at_once = max(1, _DECODED_AT_ONCE // (latents[0, 0].numel() * model.pixels_per_latent**2))
    decoded = torch.cat(
        [vae.decode(part.to(vae.dtype), return_dict=False)[0].float() for part in latents.split(at_once)]
    )
    finite = decoded.isfinite().flatten(1).all(1) & latents.isfinite().flatten(1).all(1)
    pixels = ((decoded / 2 + 0.5).nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite.cpu().numpy()
