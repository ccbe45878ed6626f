"""Arguments that several verbs share: a model, a device, a judge, and settings of the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.errors import BadInput
from efface.models import Model, Runtime, open_model
from efface.models.open import BUILT_IN
from efface.models.runtime import resolve_device

if TYPE_CHECKING:
    from typing import TypeAlias

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.generation import Sampling

    ModelLike: TypeAlias = Model | DiffusionPipeline | Path | str
    DeviceLike: TypeAlias = str | torch.device | Runtime


def runtime_from(device: DeviceLike) -> Runtime:
    """The runtime that a user gives, on a device of this machine.

    Args:
        device: A device, `auto`, or a runtime.

    Raises:
        BadInput: The device is unknown, or this machine does not have it.
    """
    runtime = device if isinstance(device, Runtime) else Runtime(str(device))
    return replace(runtime, device=resolve_device(runtime.device))


def model_from(model: ModelLike, device: DeviceLike) -> Model:
    """The model that a user gives.

    Args:
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        device: The device to open a name on, or how its parts are loaded and run; an open model and a pipeline stay as
            they are.

    Raises:
        BadInput: There is no such model or device, or a runtime is given for a pipeline.
    """
    if isinstance(model, (str, Path)):
        return open_model(model, runtime_from(device))
    if not isinstance(model, Model) and isinstance(device, Runtime) and replace(device, device="auto") != Runtime():
        raise BadInput("The pipeline is loaded already; call its own functions for offloading and the like.")
    return open_model(model)


def judge_name(model: Model | str, name: str | None) -> str:
    """The name of the judge of a run: a model of a closed world has a default judge, other models have none.

    Args:
        model: The model, or its name.
        name: The judge that the user names, if any.

    Raises:
        BadInput: No judge is named, and the model has no default.
    """
    if isinstance(model, Model):
        default, model = model.default_judge, model.name
    else:
        default = BUILT_IN[model].world().judge if model in BUILT_IN else None
    if name is None and default is None:
        raise BadInput(f"Choose a --judge for {model}, e.g. --judge clip:openai/clip-vit-base-patch32.")
    return name or str(default)


def override(defaults: Sampling, **settings: Any) -> Sampling:
    """The sampling settings with those replaced that are not None; another sampler than DDIM has no eta."""
    given = {key: value for key, value in settings.items() if value is not None}
    if defaults.eta and given.get("sampler", "ddim") != "ddim":
        given.setdefault("eta", 0.0)
    return replace(defaults, **given)
