"""Jobs to pixels by calling the model's own diffusers pipeline, for the families that efface has no sampler for.

Image i of a prompt has its own CPU generator here too, so that it does not depend on the batch.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from efface.errors import BadInput
from efface.generation.jobs import Job, Sampling, guidance_option
from efface.generation.schedulers import make_scheduler
from efface.models import Model
from efface.models.pretrained import no_progress_bar
from efface.progress import Progress

Pixels = NDArray[np.uint8]


def sample_by_pipeline(
    model: Model,
    jobs: Sequence[Job],
    sampling: Sampling,
    attached: Callable[[], AbstractContextManager[Any]],
    progress: Progress | None,
    wanted: Set[int],
) -> Iterator[tuple[int, Pixels | None]]:
    """Make the jobs' images, batch by batch; as `sampling.sample`.

    Args:
        model: What draws.
        jobs: What to draw.
        sampling: How; `dpm++`, `ddim` and `lms` only for models trained on a schedule of betas.
        attached: Puts the eraser on the model while a batch runs.
        progress: Told after each batch.
        wanted: The indices of the jobs whose images are still to be made.
    """
    if any(job.embedding for job in jobs):
        raise BadInput(f"{model.name} is drawn with by its pipeline, from prompts and not from embeddings.")
    pipeline, called = model.pipeline(), model.call_parameters
    assert called is not None
    own = pipeline.scheduler
    done = 0
    for indices in _batches(jobs, sampling):
        if wanted.isdisjoint(indices):
            continue
        batch = [jobs[index] for index in indices]
        arguments = _arguments(called, batch, sampling)
        if sampling.sampler != "own":
            pipeline.scheduler = make_scheduler(model.scheduler_config, sampling)
        try:
            with attached(), no_progress_bar(pipeline):
                made = pipeline(**arguments)
        finally:
            pipeline.scheduler = own
        if not hasattr(made, "images"):
            raise BadInput(f"A {type(pipeline).__name__} makes no pictures; attach the eraser and call it yourself.")
        for index, picture in zip(indices, np.asarray(made.images), strict=True):
            if index not in wanted:
                continue
            finite = bool(np.isfinite(picture).all())
            yield index, (picture.clip(0, 1) * 255).round().astype(np.uint8) if finite else None
            done += 1
        if progress:
            progress("images", done, len(wanted))


def _batches(jobs: Sequence[Job], sampling: Sampling) -> list[list[int]]:
    """Jobs that one call can make: alike in size and guidance, all or none with a negative prompt."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault((job.width, job.height, job.guidance, job.negative is None), []).append(index)
    size = sampling.batch_size
    return [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]


def _arguments(called: Mapping[str, inspect.Parameter], batch: Sequence[Job], sampling: Sampling) -> dict[str, Any]:
    """What to call the pipeline with for one batch."""
    first = batch[0]
    option = guidance_option({name: parameter.default for name, parameter in called.items()})
    negative = None if first.negative is None else [job.negative for job in batch]
    if negative and option == "guidance_scale" and "true_cfg_scale" in called:
        raise BadInput("This model's guidance is distilled into it: it takes no negative prompt; leave it away.")
    if negative is None and option == "true_cfg_scale":
        negative = [" "] * len(batch)  # without one, such a pipeline does not guide
    arguments: dict[str, Any] = {
        "prompt": [job.prompt for job in batch],
        "generator": [torch.Generator().manual_seed(job.seed) for job in batch],
        "num_inference_steps": sampling.steps,
        "output_type": "np",
    }
    optional = {
        "height": first.height,
        "width": first.width,
        "clip_skip": sampling.clip_skip or None,
        "negative_prompt": negative,
    }
    if option is not None:
        arguments[option] = sampling.guidance if first.guidance is None else first.guidance
    arguments |= {name: value for name, value in optional.items() if value is not None}
    unknown = [name for name in arguments if name not in called]
    if unknown:
        raise BadInput(f"This model's pipeline takes no {unknown[0]}; leave it away.")
    return arguments
