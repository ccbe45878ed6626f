"""LoRA: trains factors of low rank towards a guided prediction of the base; LECO, concept sliders and ESD.

    target = e0(x_t, n) -+ g [ e0(x_t, p) - e0(x_t, u) ]      e0: the base's prediction; -: erase, +: enhance
    loss   = mean | e(x_t, f) - target |^2                    e: the prediction with the LoRA

with the prompts f `target`, p `positive`, u `unconditional` and n `neutral`, and the scale g `guidance_scale`. x_t is a
point of the sampling trajectory for f against u with the scale 3. The weights are W + alpha / r up @ down
(`efface.methods.training.low_rank`). The eraser is the LoRA: its strength is continuous, and a negative one does the
opposite. It is exported without an approximation.

With n = u = '' and p = f = c this is the loss of ESD (https://arxiv.org/abs/2303.07345) with eta = g; with n = f = c,
that of its scripts of 2025.

The presets:

- `leco`: https://github.com/p1atdev/LECO (a93cb46), which has no paper.
- `slider`: https://arxiv.org/abs/2311.12092 (ECCV 2024), https://github.com/rohitgandikota/sliders (a465294): its text
  sliders, c3lier and noxattn. A slider has a positive prompt and its opposite, such as "{}, old" and "{}, young", and
  attributes that are preserved. Without prompts, it removes the concept.
- `esd`: the settings of esd_sd.py (https://github.com/rohitgandikota/erasing, 25613d2) on a LoRA. No reference trains
  ESD so: the rank 16 and the learning rate, here that of LECO, are no published values.

Deviations: a point has the timestep of its noise, where LECO and the sliders predict at timesteps that are 19 above
(DDIM, 50 steps); pure noise is a point too; points of a trajectory are used several times (`reuse`); the factors and
AdamW are in float32, and the references use bfloat16; a batch has one size of image; image sliders are left out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import astuple

import torch
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import Method, SnapshotWriter
from efface.methods.trained.lora.config import LoraConfig
from efface.methods.training.low_rank import LowRank
from efface.methods.training.objective import Batch, Losses, Objective, seeded
from efface.methods.training.run import combine_components, train_concepts
from efface.methods.training.trajectories import (
    Points,
    Rounds,
    TrajectorySampler,
    latent_shape,
    predictions_at,
    shuffled,
    trajectories_per_sample,
)
from efface.methods.training.weights import Networks
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request

_FIRST_VALUES = -1  # the slot of the generator of the factors
_TARGET, _POSITIVE, _UNCONDITIONAL, _NEUTRAL = range(4)


class Lora(Objective):
    """The objective of a LoRA for one concept.

    Args:
        model: The base.
        request: The request with the concept.
        config: The settings.
    """

    def __init__(self, model: Model, request: Request, config: LoraConfig) -> None:
        (concept,) = request.concepts
        sets = [astuple(prompts) for prompts in config.prompts(concept)]
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompt for one in sets for prompt in one))}
        embedded = model.embed(list(rows), clip_skip=request.clip_skip)
        self._texts = model.denoiser_text(embedded).to(model.device)  # (prompts, R, d)
        self._rows = torch.tensor([[rows[prompt] for prompt in one] for one in sets])  # (sets, 4): rows of the texts
        first = seeded(config.seed, _FIRST_VALUES)
        self.weights = LowRank(model.denoiser, config.layers(model.denoiser), config.rank, config.alpha, first)
        self.iterations = config.iterations
        self._config, self._networks, self._device = config, Networks(model, self.weights), model.device
        self._shape = latent_shape(model, config.resolution)
        self._sampler = TrajectorySampler(
            model.scheduler_config,
            self._shape,
            config.max_denoising_steps,
            config.start_guidance,
            noise_levels=model.noise_levels,
            set_guidance=model.with_guidance,
        )
        self._points_each = min(config.reuse, config.max_denoising_steps)
        self._trajectories = trajectories_per_sample(config.iterations, self._points_each, config.reuse)
        self._rounds = Rounds(self._sample_round, self._trajectories * self._points_each)

    def optimizer(self) -> torch.optim.Optimizer:
        config = self._config
        return torch.optim.AdamW(self.weights.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def batch(self, slot: int, step: int) -> Batch:
        return self._rounds.batch(slot, step)

    def loss(self, batch: Batch) -> Losses:
        predicted = self._networks.student(batch["x"], batch["t"], self._text(batch["set"], _TARGET))
        return {"loss": (predicted - batch["target"]).square().mean()}

    def state(self) -> dict[str, Tensor]:
        return self._rounds.state()

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._rounds.restore(tensors, slots, self._device)

    def _text(self, sets: Tensor, role: int) -> Tensor:
        """The texts of one role of sets of prompts (b,), (b, R, d)."""
        return self._texts[self._rows[sets.cpu(), role]]

    def _sample_round(self, slot: int, number: int) -> Points:
        """A round of points with their targets, shuffled into batches."""
        config, generator = self._config, seeded(self._config.seed, slot, number)
        n, k = self._trajectories * config.batch_size, self._points_each
        noise = torch.randn((n, *self._shape), generator=generator).to(self._device)
        sets = torch.randint(len(self._rows), (n,), generator=generator)
        stops, times = self._sampler.draw(n, k, generator)
        texts = torch.cat([self._text(sets, _UNCONDITIONAL), self._text(sets, _TARGET)])
        by_base = config.latents == "frozen"
        predict = self._networks.teacher if by_base else self._networks.student
        x, predictions = self._sampler.sample(predict, noise, texts, stops, last=by_base)
        points = {"x": x.flatten(0, 1), "t": times.flatten().to(self._device), "set": sets.repeat_interleave(k)}
        # On its own trajectory, the base already predicts for two of the prompts.
        unconditional, target = predictions.flatten(1, 2)
        is_known = by_base and self._sampler.set_guidance is None
        known = {self._column(_UNCONDITIONAL): unconditional, self._column(_TARGET): target} if is_known else {}
        points["target"] = self._targets(points, known, n)
        points["set"] = points["set"].to(self._device)
        return shuffled(points, config.batch_size, generator)

    def _column(self, role: int) -> tuple[int, ...]:
        """The rows of the texts of a role in all sets: equal for roles with the same prompts."""
        return tuple(self._rows[:, role].tolist())

    def _targets(self, points: Points, known: Mapping[tuple[int, ...], Tensor], batch_size: int) -> Tensor:
        """The targets of points (m, C, h, w), from known predictions and those that the base makes here."""
        roles = {self._column(role): role for role in (_NEUTRAL, _POSITIVE, _UNCONDITIONAL)}
        missing = {column: role for column, role in roles.items() if column not in known}
        predictions = dict(known)
        if missing:

            def texts(sets: Tensor) -> list[Tensor]:
                return [self._text(sets, role) for role in missing.values()]

            of_base = predictions_at(self._networks.teacher, points, "set", texts, batch_size)
            predictions |= zip(missing, of_base, strict=True)
        neutral, positive, unconditional = (
            predictions[self._column(role)] for role in (_NEUTRAL, _POSITIVE, _UNCONDITIONAL)
        )
        sign = -1 if self._config.action == "erase" else 1
        return neutral + sign * self._config.guidance_scale * (positive - unconditional)


def erase(
    model: Model, request: Request, config: LoraConfig, context: RunContext, write_snapshot: SnapshotWriter
) -> Solution:
    """Train a LoRA for each concept, starting from the base.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps.
    """

    def objective(part: Request) -> Lora:
        return Lora(model, part, config)

    return train_concepts(model, request, config, context, write_snapshot, objective)


ENTRY = Method(
    name="lora",
    summary="Trains a LoRA away from the concept or towards it: LECO, concept sliders and ESD.",
    paper="https://arxiv.org/abs/2311.12092",
    repository="https://github.com/p1atdev/LECO",
    edit="weight",
    config=LoraConfig,
    erase=erase,
    combine=combine_components,
    uses_preserve=False,
    needs=("context", "write_snapshot"),
    families=("sd", "sdxl", "sd3", "flux", "generic"),
)
