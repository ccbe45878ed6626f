"""Samplers by name: diffusers' schedulers, configured for latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.errors import BadInput
from efface.generation.jobs import Sampling
from efface.models.denoising import ddim_scheduler


def make_scheduler(config: Mapping[str, Any], sampling: Sampling) -> Any:
    """A new scheduler; schedulers have state, so each batch needs its own.

    - `dpm++`: DPM-Solver++ of order 2, multistep (arXiv 2211.01095), with "trailing" timesteps, as arXiv 2305.08891
      recommends for few steps.
    - `ddim`: DDIM with the spacing of the model's configuration, which published results use.
    - `lms`: The scheduler that UnlearnDiffAtk and ESD evaluate with.
    - `own`: The model's own scheduler.

    Args:
        config: Configuration of the model's scheduler: betas, prediction type, spacing.
        sampling: Sampling settings, which name the sampler.

    Raises:
        BadInput: The sampler needs a schedule of betas, or a package that is not installed.
    """
    if sampling.sampler == "own":
        import diffusers

        scheduler: Any = getattr(diffusers, config["_class_name"])
        return scheduler.from_config(dict(config))
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    if "num_train_timesteps" not in config or "beta_schedule" not in config:
        raise BadInput(
            f"The sampler '{sampling.sampler}' needs a model trained on a schedule of betas; this one is not."
        )
    if sampling.sampler == "dpm++":
        return DPMSolverMultistepScheduler.from_config(
            dict(config), algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
        )
    if sampling.sampler == "ddim":
        return ddim_scheduler(config)
    try:
        from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
    except ImportError as error:
        raise BadInput("The sampler 'lms' needs SciPy; run `pip install scipy`, or choose another.") from error
    return LMSDiscreteScheduler.from_config(dict(config))
