"""The sampler: jobs to pixels, in batches, with the same result whatever the batches.

A loop of its own over diffusers' schedulers rather than a pipeline call, since an evaluation wants what a pipeline
does not do: every prompt embedded once, the unconditional embedding shared, one guidance an image, static batches, one
pass of the decoder, and a generator per image. For one prompt and seed it gives the pipeline's own image.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), with scale g:

    prediction = unconditional + g * (conditional - unconditional)

Shapes: b images a batch, C latent channels, h and w latent size, T tokens, d text width.
"""

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
from efface.generation.jobs import Job, Sampling
from efface.generation.schedulers import make_scheduler
from efface.models import Embedded, Model
from efface.models.denoising import Conditions, guided
from efface.progress import Progress

Pixels = NDArray[np.uint8]

#: Pixels decoded together: 256 images of 64 x 64, 4 of 512 x 512.
_DECODED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class _Batch:
    """Jobs that run together: same size, and all or none with guidance."""

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
    """Make the jobs' images, batch by batch.

    Equal calls give equal images, also where only some are wanted. Another batch size or order sums in another order,
    which may round a pixel to the next byte: images differ by at most 1 of 255. The eraser is on the model only while
    a batch runs, so that several of these can take turns on one model.

    Args:
        model: What draws.
        jobs: What to draw.
        sampling: How; `None` takes the model's default.
        eraser: What the model shall forget meanwhile.
        strength: Of the eraser.
        force: Attach the eraser although the model's text encoder is not its base's.
        progress: Told after each batch.
        wanted: The indices of the jobs whose images are still to be made; `None` wants all. Batches are cut from all
            jobs nonetheless and run whole, or not at all, so that a run that goes on equals one that was never stopped.

    Yields:
        A wanted job's index and its image, (height, width, 3); `None` in its place where the numbers were not finite.
    """
    sampling = sampling or Sampling.default(model)
    left = {index for index in range(len(jobs)) if wanted is None or index in wanted}
    if not left:
        return
    if model.call_parameters is not None:
        from efface.generation.by_pipeline import sample_by_pipeline

        with _attached(model, eraser, strength, force):
            pass  # the base is checked here, once
        on = partial(_attached, model, eraser, strength, force=True)
        yield from sample_by_pipeline(model, jobs, sampling, on, progress, left)
        return
    batches = [batch for batch in _batches(model, jobs, sampling) if not left.isdisjoint(batch.indices)]
    with _attached(model, eraser, strength, force):
        texts = _embed(model, jobs, sampling)
    done = 0
    for batch in batches:
        # The base was checked above, once.
        with _attached(model, eraser, strength, force=True):
            pixels, finite = _decode(model, _latents(model, [jobs[i] for i in batch.indices], batch, texts, sampling))
        for index, image, good in zip(batch.indices, pixels, finite, strict=True):
            if index in left:
                yield index, image if good else None
                done += 1
        if progress:
            progress("images", done, len(left))


def sample_latents(model: Model, jobs: Sequence[Job], sampling: Sampling) -> Tensor:
    """The jobs' latents instead of their pictures, (n, C, h, w), float32; the jobs must be of one size."""
    texts, rows = _embed(model, jobs, sampling), dict[int, Tensor]()
    for batch in _batches(model, jobs, sampling):
        drawn = _latents(model, [jobs[i] for i in batch.indices], batch, texts, sampling)
        rows.update(zip(batch.indices, drawn, strict=True))
    return torch.stack([rows[index] for index in range(len(jobs))])


def _attached(model: Model, eraser: Eraser | None, strength: float, force: bool) -> AbstractContextManager[Any]:
    return nullcontext() if eraser is None else eraser.attach(model, strength, force)


def _batches(model: Model, jobs: Sequence[Job], sampling: Sampling) -> list[_Batch]:
    """Jobs by size and guidance, each group in equal batches; the last of a group is filled up to keep one shape."""
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for index, job in enumerate(jobs):
        guidance = sampling.guidance if job.guidance is None else job.guidance
        groups.setdefault((*_size(model, job), guidance != 1), []).append(index)
    batches: list[_Batch] = []
    for (height, width, has_guidance), indices in groups.items():
        # 33 jobs at 32 a batch run as 17 + 16, not as 32 + 1 filled up with 31 copies.
        slots = -(-len(indices) // -(-len(indices) // sampling.batch_size))
        for start in range(0, len(indices), slots):
            batches.append(_Batch(tuple(indices[start : start + slots]), slots, height, width, has_guidance))
    return batches


def _size(model: Model, job: Job) -> tuple[int, int]:
    """Height and width in pixels."""
    factor, own = _factor(model), model.denoiser.config.sample_size
    default = (own, own) if isinstance(own, int) else tuple(own)
    height = job.height or default[0] * factor
    width = job.width or default[1] * factor
    if height < factor or width < factor or height % factor or width % factor:
        raise BadInput(f"An image of {width}x{height} pixels cannot be made; give multiples of {factor}.")
    return height, width


def _factor(model: Model) -> int:
    """Pixels a latent, along one side."""
    return 2 ** (len(model.vae.config.block_out_channels) - 1)


def _embed(model: Model, jobs: Sequence[Job], sampling: Sampling) -> dict[str, Tensor]:
    """Every prompt and negative prompt once, (T, d) each; what has an embedding of its own needs none."""
    said = [text for job in jobs for text in (*(() if job.embedding else (job.prompt,)), job.negative or "")]
    prompts = list(dict.fromkeys(said))
    if not prompts:
        return {}
    try:
        embedded: Embedded = model.embed(prompts, clip_skip=sampling.clip_skip)
    except BadRequest as error:
        # The published prompt files hold such prompts, and every pipeline cuts them.
        warnings.warn(f"{error} The prompt is cut there.", stacklevel=3)
        embedded = model.embed(prompts, clip_skip=sampling.clip_skip, truncate=True)
    return dict(zip(prompts, embedded.tokens, strict=True))


@torch.no_grad()
def _latents(model: Model, jobs: Sequence[Job], batch: _Batch, texts: dict[str, Tensor], sampling: Sampling) -> Tensor:
    """Latents of one batch, (b, C, h, w)."""
    filled = [*jobs, *[jobs[-1]] * (batch.slots - len(jobs))]
    factor = _factor(model)
    shape = (model.denoiser.config.in_channels, batch.height // factor, batch.width // factor)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(job.seed)) for job in filled])
    context = torch.stack([job.embedding.tokens if job.embedding else texts[job.prompt] for job in filled])
    guidance = torch.tensor([sampling.guidance if job.guidance is None else job.guidance for job in filled])
    if batch.guided:
        context = torch.cat([torch.stack([texts[job.negative or ""] for job in filled]), context])
    return _denoise(model, sampling, noise, context, guidance if batch.guided else None)[: len(jobs)]


def _denoise(model: Model, sampling: Sampling, noise: Tensor, context: Tensor, guidance: Tensor | None) -> Tensor:
    """Latents (b, C, h, w), float32, from noise of that shape.

    Args:
        model: What draws.
        sampling: How.
        noise: (b, C, h, w), of unit variance.
        context: (b, T, d), or with guidance (2b, T, d), the unconditional half first.
        guidance: (b,); `None` leaves the unconditional half out.
    """
    scheduler = make_scheduler(model.scheduler_config, sampling)
    scheduler.set_timesteps(sampling.steps, device=model.device)
    latents = noise.to(model.device) * scheduler.init_noise_sigma
    conditions = Conditions(context).to(model.device, model.dtype)
    scale = None if guidance is None else guidance.to(model.device).view(-1, 1, 1, 1)
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(latents, t).to(model.dtype)
        x = x if scale is None else torch.cat([x, x])
        prediction = model.predict(x, t, conditions)
        if scale is not None:
            unconditional, conditional = prediction.chunk(2)
            prediction = guided(unconditional, conditional, scale)
        latents = scheduler.step(prediction, t, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def _decode(model: Model, latents: Tensor) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels (b, H, W, 3) of latents (b, C, h, w), and which images are finite."""
    vae = model.vae
    latents = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
    at_once = max(1, _DECODED_AT_ONCE // (latents[0, 0].numel() * _factor(model) ** 2))
    decoded = torch.cat(
        [vae.decode(part.to(vae.dtype), return_dict=False)[0].float() for part in latents.split(at_once)]
    )
    finite = decoded.isfinite().flatten(1).all(1) & latents.isfinite().flatten(1).all(1)
    pixels = ((decoded / 2 + 0.5).nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite.cpu().numpy()
