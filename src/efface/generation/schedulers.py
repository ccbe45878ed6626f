"""Samplers by name, as diffusers' schedulers set up for latents."""

from collections.abc import Mapping
from typing import Any

from efface.errors import BadInput
from efface.generation.jobs import Sampling
from efface.models.denoising import ddim_scheduler


def make_scheduler(config: Mapping[str, Any], sampling: Sampling) -> Any:
    """A fresh scheduler; its steps keep state, so each batch needs its own.

    - `dpm++`: DPM-Solver++ of order 2, multistep (arXiv 2211.01095). Its steps end at t = T ("trailing"), as
      arXiv 2305.08891 argues for few steps.
    - `ddim`: eta 0, spaced as the model's own configuration says: what published numbers were made with.
    - `lms`: what UnlearnDiffAtk and ESD evaluate with.
    - `own`: the model's own.

    Args:
        config: The model's scheduler configuration: betas, prediction type, spacing.
        sampling: Names the sampler.
    """
    if sampling.sampler == "own":
        import diffusers

        own: Any = getattr(diffusers, config["_class_name"])
        return own.from_config(dict(config))
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
