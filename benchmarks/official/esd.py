"""One step of efface's ESD with the noise and the timestep of an official script, and the differences from it.

`efface.erase` is called as a user calls it, with the script's settings, but draws the noise and the point of the
script. It samples the trajectory; then it takes the step at the script's x, so that the rounding of the trajectory is
not counted again, and as the latents of SDXL's scripts are those that the scheduler has not scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle
from torch.optim.optimizer import register_optimizer_step_pre_hook

import efface
from efface import Model, WeightEdit
from efface.methods.trained import esd
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.training.objective import Batch, Losses
from efface.methods.training.trajectories import TrajectorySampler
from efface.models.families.patches import latents_of_patches
from efface.models.flow import TIMESTEPS, is_flow
from official.folders import FLUX, FLUX2, SD, SDXL

CONCEPT, STEPS, SIDE, FLOW_SIDE = "cat", 8, 1024, 128
_GRADIENT = "gradient."  # before the names of parameters in a record


@dataclass(frozen=True)
class Script:
    """An official script, its arguments, and efface's settings for them.

    Attributes:
        name: The name of the row.
        checkout: `erasing` or `fork`.
        file: The file in the checkout.
        model: The folder of the tiny model.
        train_method: The parameters to train, which have the same name in both.
        settings: efface's further settings.
        arguments: The script's further arguments.
        zeros: Whether the script samples SDXL with zeros in place of the empty prompt's embedding, which pipelines of
            SDXL do without a negative prompt.
    """

    name: str
    checkout: str
    file: str
    model: str
    train_method: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: tuple[str, ...] = ()
    zeros: bool = False

    def command(self, save_path: Path) -> list[str]:
        """The arguments of the script for one step."""
        options = {
            "erase_concept": CONCEPT, "train_method": self.train_method, "iterations": 1,
            "num_inference_steps": STEPS, "save_path": save_path, "device": "cpu",
        }  # fmt: skip
        return [text for name, value in options.items() for text in (f"--{name}", str(value))] + [*self.arguments]


_U_NET: dict[str, Any] = {"sampler": "own", "image_size": SIDE}
_FLOW: dict[str, Any] = {"image_size": FLOW_SIDE}
_SIZE, _FLOW_SIZE = ("--resolution", str(SIDE)), ("--resolution", str(FLOW_SIDE))
SCRIPTS = (
    Script("SD, 2025", "erasing", "esd_sd.py", SD, "esd-x", {"preset": "2025", **_U_NET}),
    Script(
        "SD, 2026, erase_from", "fork", "esd_sd.py", SD, "esd-u",
        {"preset": "2025", "erase_from": "a house", **_U_NET}, ("--erase_from", "a house", *_SIZE),
    ),
    Script("SDXL, 2025", "erasing", "esd_sdxl.py", SDXL, "esd-x", {"preset": "sdxl", **_U_NET}, zeros=True),
    Script("SDXL, 2026", "fork", "esd_sdxl.py", SDXL, "esd-u", {"preset": "sdxl", **_U_NET}, _SIZE),
    Script("FLUX.1", "fork", "esd_flux.py", FLUX, "esd-x", {"preset": "flux", **_FLOW}, _FLOW_SIZE),
    Script("FLUX.2 klein", "fork", "esd_flux2_klein.py", FLUX2, "esd-x", {"preset": "flux2", **_FLOW}, _FLOW_SIZE),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """The differences of one step.

    Attributes:
        name: The name of the script.
        file: Its file.
        train_method: The set of trained parameters.
        steps: The number of steps that the script took, each from the base.
        index: The number of steps before x on the trajectory.
        parameters: The number of parameters that the script trains.
        same: The number of them that efface trains; -1 if efface trains others too.
        timestep: The difference of the timesteps, in units of 1000.
        x: The point of efface's trajectory; this and the next four are norms of differences, relative to the norm.
        target: The target of the loss.
        loss: The loss.
        gradient: The gradients of all trained parameters, as one vector.
        weights: The trained weights after the step, as one vector.
        turned: The share of weights whose step differs by more than a tenth of the learning rate.
    """

    name: str
    file: str
    train_method: str
    steps: int
    index: int
    parameters: int
    same: int
    timestep: float
    x: float
    target: float
    loss: float
    gradient: float
    weights: float
    turned: float


def compare(
    script: Script, model: Model, ours: Mapping[str, Tensor], record: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> Row:
    """The differences between efface's step and a script's.

    Args:
        script: The script.
        model: The tiny model.
        ours: The result of `efface_step`, (...) each.
        record: What `official.record` has recorded, (...) each.
        saved: The weights that the script has saved, (...), by name.
    """
    names = [name.removeprefix(_GRADIENT) for name in ours if name.startswith(_GRADIENT) and name in record]
    ours_trains, script_trains = (sum(name.startswith(_GRADIENT) for name in step) for step in (ours, record))
    stepped, expected = _joined(ours, [f"weight.{name}" for name in names]), _joined(saved, names)
    gradients = [f"{_GRADIENT}{name}" for name in names]
    # Transformers of flow matching read the timestep as a share of all.
    time = float(record["t"]) / (1 if is_flow(model.scheduler_config) else TIMESTEPS)
    return Row(
        name=script.name,
        file=script.file,
        train_method=script.train_method,
        steps=int(record["steps"]),
        index=int(record["index"]),
        parameters=script_trains,
        same=len(names) if ours_trains == len(names) else -1,
        timestep=abs(float(ours["t"]) / TIMESTEPS - time),
        x=relative(ours["x"], _as_image(record["x"], model)),
        target=relative(ours["target"], _as_image(record["target"], model)),
        loss=relative(ours["loss"], record["loss"]),
        gradient=relative(_joined(ours, gradients), _joined(record, gradients)),
        weights=relative(stepped, expected),
        turned=float(((stepped - expected).abs() > 0.1 * _config(script).lr).float().mean()),
    )


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference of two tensors of one shape, relative to the norm of the second."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def _config(script: Script) -> esd.EsdConfig:
    """efface's settings for a script: one step, on a trajectory that serves no other."""
    options = {"train_method": script.train_method, "ddim_steps": STEPS, "iterations": 1, "reuse": 1}
    return esd.EsdConfig(**options, **script.settings)


def efface_step(script: Script, model: Model, record: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One step of `efface.erase` with the random numbers of a script.

    Args:
        script: The script.
        model: The tiny model.
        record: The script's record, (...) each.

    Returns:
        x, t, target, loss and gradients by their names in the record, and `weight.NAME`, (...) each.
    """
    config, found = _config(script), dict[str, Tensor]()
    assert config.train_method is not None
    names = trained_parameters(model.denoiser, config.train_method)

    class Recorded(esd.Esd):
        def loss(self, batch: Batch) -> Losses:
            losses = super().loss(batch)
            found.update(t=batch["t"], target=batch["target"], loss=losses["loss"].detach())
            return losses

    def before_step(optimizer: torch.optim.Optimizer, args: Any, named: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found.update({f"{_GRADIENT}{name}": p.grad.clone() for name, p in zip(names, parameters, strict=True)})

    replay = _replay(script, model, record, found)
    hook = register_optimizer_step_pre_hook(before_step)
    try:
        with patch.object(esd, "Esd", Recorded), patch.object(esd, "TrajectorySampler", replay):
            eraser = efface.erase(model, CONCEPT, method="esd", **config.model_dump(exclude_unset=True))
    finally:
        hook.remove()
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        name = edit.parameter.removeprefix("denoiser.")
        base = model.denoiser.get_parameter(name).detach()
        found[f"weight.{name}"] = base + edit.value(base.shape)
    return found


def _replay(
    script: Script, model: Model, record: Mapping[str, Tensor], found: dict[str, Tensor]
) -> type[TrajectorySampler]:
    """A class of samplers that draws the noise and the point of a record, and continues at its x.

    Args:
        script: The script.
        model: The tiny model.
        record: The script's record, (...) each.
        found: Receives efface's own x, (1, C, h, w).
    """
    start, x, index = _as_image(record["noise"], model), _as_image(record["x"], model), record["index"].reshape(1, 1)

    class Replay(TrajectorySampler):
        def draw(self, n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return index, self.start()[1][index]

        def sample(self, predict: Any, noise: Tensor, texts: Tensor, stops: Tensor, last: bool) -> Any:
            empty = texts[:1] * (0 if script.zeros else 1)
            points, predictions = super().sample(predict, start, torch.cat([empty, texts[1:]]), stops, last)
            scheduler, timesteps = self.start()
            unscaled = (scheduler.sigmas[index] ** 2 + 1) ** 0.5 if script.model == SDXL else 1
            found["x"] = points[0] * unscaled
            if last:
                predictions = predict(x.repeat(2, 1, 1, 1), timesteps[index].flatten().expand(2), texts)[:, None, None]
            return x[None], predictions

    return Replay


def _as_image(latents: Tensor, model: Model) -> Tensor:
    """Latents or a prediction in the layout of a script as (1, C, h, w): patches of 2x2 become channels again."""
    channels = model.latent_shape[0]
    if latents.dim() == 3:
        side = 2 * round(latents.shape[1] ** 0.5)
        return latents_of_patches(latents, side, side)
    return pixel_shuffle(latents, 2) if latents.shape[1] == 4 * channels else latents


def _joined(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """Tensors as one vector, (sum,)."""
    return torch.cat([tensors[name].flatten() for name in names])
