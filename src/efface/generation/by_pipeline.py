"""Jobs to pixels by calling the model's diffusers pipeline, for families without a sampler in efface.

Each image has its own CPU generator here too, so that it does not depend on the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.generation.jobs import Job, Sampling
from efface.generation.schedulers import make_scheduler
from efface.models import Model
from efface.models.pretrained import no_progress_bar
from efface.progress import Progress


def sample_by_pipeline(
    model: Model,
    jobs: Sequence[Job],
    sampling: Sampling,
    attached: Callable[[], AbstractContextManager[Any]],
    progress: Progress | None,
    wanted: Set[int],
) -> Iterator[tuple[int, Pixels | None]]:
    """Generate the jobs' images, batch by batch, as `sampling.sample` does.

    Args:
        model: The model.
        jobs: What to generate.
        sampling: Sampling settings; `dpm++`, `ddim` and `lms` require a model that is trained on a schedule of betas.
        attached: Returns a context in which the eraser is attached to the model.
        progress: Called after each batch.
        wanted: Indices of the jobs whose images are missing.

    Yields:
        The index of a wanted job and its image, (H, W, 3); None in place of an image whose values are not finite.

    Raises:
        BadInput: A job has an embedding, the pipeline does not take one of the settings, or it makes no images.
    """
    if any(job.embedding for job in jobs):
        raise BadInput(f"Images of {model.name} are made by its pipeline, which takes prompts and no embeddings.")
    pipeline, parameters = model.pipeline(), model.call_parameters
    assert parameters is not None
    if "num_frames" in parameters:
        raise BadInput(f"A {type(pipeline).__name__} makes videos; attach the eraser and call it yourself.")
    scheduler = pipeline.scheduler
    done = 0
    for indices in _batches(jobs, sampling):
        if wanted.isdisjoint(indices):
            continue
        batch = [jobs[index] for index in indices]
        arguments = _arguments(model, parameters, batch, sampling)
        if sampling.sampler != "own":
            pipeline.scheduler = make_scheduler(model.scheduler_config, sampling)
        try:
            with attached(), no_progress_bar(pipeline):
                output = pipeline(**arguments)
        except BadInput:
            raise
        except ValueError as error:  # by which pipelines reject arguments
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise BadInput(f"A {type(pipeline).__name__} rejects these settings ({reason}).") from error
        finally:
            pipeline.scheduler = scheduler
        if not hasattr(output, "images"):
            raise BadInput(f"A {type(pipeline).__name__} makes no images; attach the eraser and call it yourself.")
        for index, image in zip(indices, np.asarray(output.images), strict=True):
            if index not in wanted:
                continue
            finite = bool(np.isfinite(image).all())
            yield index, (image.clip(0, 1) * 255).round().astype(np.uint8) if finite else None
            done += 1
        if progress:
            progress("images", done, len(wanted))


def _batches(jobs: Sequence[Job], sampling: Sampling) -> list[list[int]]:
    """Batches for one call each: equal size and guidance, all or none with a negative prompt."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault((job.width, job.height, job.guidance, job.negative is None), []).append(index)
    size = sampling.batch_size
    return [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]


def _arguments(
    model: Model, parameters: Mapping[str, inspect.Parameter], batch: Sequence[Job], sampling: Sampling
) -> dict[str, Any]:
    """Arguments of the pipeline's call for one batch."""
    first = batch[0]
    option = model.guidance_argument
    negative = None if first.negative is None else [job.negative for job in batch]
    if negative and option == "guidance_scale" and "true_cfg_scale" in parameters:
        raise BadInput("This model's guidance is distilled into it: it takes no negative prompt; leave it out.")
    if negative is None and option == "true_cfg_scale":
        negative = [" "] * len(batch)  # without a negative prompt, such a pipeline does not apply guidance
    arguments: dict[str, Any] = {
        **model.pipeline_arguments,
        "prompt": [job.prompt for job in batch],
        "generator": [torch.Generator().manual_seed(job.seed) for job in batch],
        "num_inference_steps": sampling.steps,
        "output_type": "np",
    }
    # The default size is one of the sizes that such a pipeline rounds to.
    no_binning = {"use_resolution_binning": False} if not (first.height or first.width) else {}
    arguments |= {name: value for name, value in no_binning.items() if name in parameters}
    optional = {
        "height": first.height,
        "width": first.width,
        "clip_skip": sampling.clip_skip or None,
        "negative_prompt": negative,
        "eta": sampling.eta or None,
    }
    if option is not None:
        arguments[option] = sampling.guidance if first.guidance is None else first.guidance
    arguments |= {name: value for name, value in optional.items() if value is not None}
    unknown = [name for name in arguments if name not in parameters]
    if unknown:
        raise BadInput(f"This model's pipeline takes no {unknown[0]}; leave it out.")
    return arguments
