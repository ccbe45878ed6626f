"""ESD, erased stable diffusion: trains the model towards its frozen copy, guided away from the concept.

    target = e0(x_t, a) - eta [ e0(x_t, c) - e0(x_t, '') ]         e0: the base's prediction, c: the concept
    loss   = mean | e(x_t, f) - target |^2                         e: the trained model's

Without `erase_from`, f = c, and a = '' in the paper and the 2023 code, but a = c in the 2025 scripts: eta = 2 there
equals eta = 1 in the paper. With `erase_from`, f = a = that prompt. x_t is a point of the model's sampling trajectory
for f with guidance scale `start_guidance`: of the edited model in 2023, of the base in 2025.

Paper: https://arxiv.org/abs/2303.07345 (ICCV 2023). Reference: https://github.com/rohitgandikota/erasing, the scripts
train-esd.py (a2189e9, 2023) and esd_sd.py (25613d2, 2025). Both sample a new partial trajectory for each
step, as `reuse=1` does here (see `efface.methods.training.trajectories`). The 2025 script samples Stable Diffusion 1.4
at 1024 pixels (`image_size=1024`) with the pipeline's own scheduler (`sampler=own`). Deviation: it runs Adam in
bfloat16, in which most of the steps are too small to change a weight; here Adam runs in float32.

The presets `sdxl`, `flux` and `flux2` are the settings of esd_sdxl.py, of esd_flux.py and of esd_flux2_klein.py
(https://github.com/stanulet27/erasing, 2ff19a1). Deviation: the script for SDXL passes latents to the denoiser that the
scheduler has not scaled. The scripts train cross-attention, or in FLUX the attention, by default for every kind of
concept. The unconditional prediction of SDXL is that for the empty prompt, as in the script of 2ff19a1; that of 25613d2
samples the trajectories with zeros instead.

`python benchmarks/official_parity.py` compares a step with those of the scripts.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from efface.edits.solution import Solution
from efface.errors import BadRequest
from efface.methods.base import Method, SnapshotWriter
from efface.methods.trained.denoiser_parameters import TrainMethod, trained_parameters
from efface.methods.training.objective import Batch, Losses, Objective, TrainingConfig, seeded
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
from efface.methods.training.weights import Copies, Networks
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Kind, Request

Preset = Literal["2023", "2025", "sdxl", "flux", "flux2"]
PRESETS: dict[str, dict[str, Any]] = {
    "2023": {"negative_guidance": 1.0, "iterations": 1000, "lr": 1e-5, "target": "null", "latents": "edited"},
    "2025": {"negative_guidance": 2.0, "iterations": 200, "lr": 5e-5, "target": "concept", "latents": "frozen"},
    "sdxl": {
        "start_guidance": 2.0, "negative_guidance": 1.0, "iterations": 200, "lr": 2e-4, "image_size": 1024,
        "sampler": "own",
    },
    "flux": {
        "start_guidance": 3.5, "negative_guidance": 1.0, "iterations": 1400, "lr": 1e-4, "ddim_steps": 28,
        "image_size": 512,
    },
    "flux2": {"start_guidance": 4.0, "negative_guidance": 1.0, "iterations": 1400, "lr": 1e-4},
}  # fmt: skip
_SDXL_ALL = 1e-5  # the learning rate of the script for SDXL without cross-attention, or with all layers
# The paper trains cross-attention for styles, and all else for objects and unsafe themes.
_TRAINED_BY_KIND: dict[str, tuple[TrainMethod, TrainMethod]] = {
    "2023": ("xattn", "noxattn"),
    "2025": ("esd-x", "esd-u"),
    "sdxl": ("esd-x", "esd-x"),
    "flux": ("esd-x", "esd-x"),
    "flux2": ("esd-x", "esd-x"),
}


class EsdConfig(TrainingConfig):
    """ESD's settings, by the references' names. Each value of a preset can be overridden.

    Attributes:
        preset: The published defaults: those of the 2023 code, or of the later scripts for Stable Diffusion 1, SDXL,
            FLUX.1 and FLUX.2 klein.
        train_method: The parameters to train; None is cross-attention for a style, and all other parameters otherwise.
        start_guidance: The guidance scale of the trajectories.
        negative_guidance: The guidance scale eta of the target.
        iterations: The number of steps of Adam.
        lr: Adam's learning rate.
        batch_size: The samples of one forward pass.
        ddim_steps: The number of steps of a full trajectory.
        image_size: The image size in pixels; None is the default size of the model.
        erase_from: The prompt from which the concept is removed, instead of from the concept itself.
        separator: A string that splits a concept's name into several prompts, one per trajectory.
        together: Whether to train all concepts of the request as one, one concept per trajectory. The result cannot be
            split. Here, and with `separator`, the concepts alternate in a random order, a new one in each cycle.
        prompt: The prompt of a concept; {} is its name.
        target: The start of the target without `erase_from`: the prediction for the empty prompt, or for the concept.
        latents: The model of the trajectories. Those of the edited model are sampled again when all their points are
            used.
        reuse: The largest number of points of a trajectory to train on. Several concepts have two trajectories each if
            the steps allow it. 1 is the published procedure, a new trajectory for each step.
        sampler: The sampler of the trajectories: DDIM, or the model's own scheduler.
        compvis_quirk: Whether to use the trajectories of the 2023 code, whose points have less noise than their
            timesteps.
        mu_quirk: Whether noxattn and notime train the output layers, as in mu's packaging.
    """

    preset: Annotated[Preset, BeforeValidator(str)] = "2025"
    train_method: TrainMethod | None = None
    start_guidance: float = Field(default=3.0, ge=0)
    negative_guidance: float = 2.0
    iterations: int = Field(default=200, ge=1)
    lr: float = Field(default=5e-5, gt=0, lt=1e38)
    batch_size: int = Field(default=1, ge=1)
    ddim_steps: int = Field(default=50, ge=1, le=1000)
    image_size: int | None = Field(default=None, ge=8)
    erase_from: str | None = None
    separator: str | None = Field(default=None, min_length=1)
    together: bool = False
    prompt: str = Field(default="{}", pattern=r"\{\}")
    target: Literal["null", "concept"] = "concept"
    latents: Literal["edited", "frozen"] = "frozen"
    reuse: int = Field(default=25, ge=1)
    sampler: Literal["ddim", "own"] = "ddim"
    compvis_quirk: bool = False
    mu_quirk: bool = False

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        preset = str(values.get("preset", "2025"))
        chosen = dict(PRESETS.get(preset, {}))
        if preset == "sdxl" and values.get("train_method") in ("esd-u", "esd-all"):
            chosen["lr"] = _SDXL_ALL
        return {**chosen, **values}

    @model_validator(mode="after")
    def _possible(self) -> EsdConfig:
        if self.compvis_quirk and (self.sampler == "own" or self.ddim_steps < 2):
            raise BadRequest("compvis_quirk needs sampler=ddim and ddim_steps=2 or more.")
        return self


def train_method_of(config: EsdConfig, kind: Kind) -> TrainMethod:
    """The parameters that are trained for a concept of a kind."""
    of_style, of_others = _TRAINED_BY_KIND[config.preset]
    return config.train_method or (of_style if kind == "style" else of_others)


class Esd(Objective):
    """The objective of ESD for one or several concepts.

    Args:
        model: The base.
        request: The request with the concepts.
        config: The settings.
    """

    def __init__(self, model: Model, request: Request, config: EsdConfig) -> None:
        prompts = [config.prompt.replace("{}", name) for name in _names(request, config)]
        source = [] if config.erase_from is None else [config.erase_from]
        embedded = model.embed(["", *prompts, *source], clip_skip=request.clip_skip)
        texts = model.denoiser_text(embedded).to(model.device)
        self._null, self._concepts, self._erase_from = texts.split([1, len(prompts), len(source)])  # (., R, d)
        chosen = train_method_of(config, request.concepts[0].kind)
        self.weights = Copies(model.denoiser, trained_parameters(model.denoiser, chosen, config.mu_quirk))
        self.iterations = config.iterations
        self._config, self._networks, self._device = config, Networks(model, self.weights), model.device
        self._shape = latent_shape(model, config.image_size)
        with_own = config.sampler == "own"
        self._sampler = TrajectorySampler(
            model.scheduler_config,
            self._shape,
            config.ddim_steps,
            config.start_guidance,
            own_scheduler=with_own,
            compvis_quirk=config.compvis_quirk,
            noise_levels=model.noise_levels,
            set_guidance=model.with_guidance,
        )
        self._points_each = min(config.reuse, config.ddim_steps)
        if len(prompts) > 1:
            samples = config.iterations * config.batch_size
            self._points_each = min(self._points_each, max(1, samples // (2 * len(prompts))))
        self._trajectories = trajectories_per_sample(config.iterations, self._points_each, config.reuse)
        self._rounds = Rounds(self._sample_round, self._trajectories * self._points_each)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.weights.parameters(), lr=self._config.lr)

    def batch(self, slot: int, step: int) -> Batch:
        return self._rounds.batch(slot, step)

    def loss(self, batch: Batch) -> Losses:
        predicted = self._networks.student(batch["x"], batch["t"], self._student_text(batch["concept"]))
        return {"loss": (predicted - batch["target"]).square().mean()}

    def state(self) -> dict[str, Tensor]:
        return self._rounds.state()

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._rounds.restore(tensors, slots, self._device)

    def _student_text(self, concept: Tensor) -> Tensor:
        """The text f of each sample, which the student reads, (b, R, d)."""
        return self._erase_from.expand(len(concept), -1, -1) if len(self._erase_from) else self._concepts[concept]

    def _target(self, null: Tensor, concept: Tensor, start: Tensor | None = None) -> Tensor:
        """The target a - eta [c - ''] from predictions of the same shape; `start` is that for `erase_from`."""
        if start is None:
            start = null if self._config.target == "null" else concept
        return start - self._config.negative_guidance * (concept - null)

    def _sample_round(self, slot: int, number: int) -> Points:
        """A round of points with their targets, shuffled into batches."""
        config, generator = self._config, seeded(self._config.seed, slot, number)
        n, k = self._trajectories * config.batch_size, self._points_each
        noise = torch.randn((n, *self._shape), generator=generator).to(self._device)
        torch.randint(1, (n,), generator=generator)  # unused, but later random numbers depend on it
        concepts = self._concepts_of(slot, number * n, n).to(self._device)
        stops, times = self._sampler.draw(n, k, generator)
        texts = torch.cat([self._null.expand(n, -1, -1), self._student_text(concepts)])
        # On its trajectory to the concept, the base already makes the predictions of the target.
        known = config.latents == "frozen" and not len(self._erase_from) and not config.compvis_quirk
        known = known and self._sampler.set_guidance is None
        predict = self._networks.teacher if config.latents == "frozen" else self._networks.student
        x, predictions = self._sampler.sample(predict, noise, texts, stops, last=known)
        points = {"x": x.flatten(0, 1), "t": times.flatten().to(self._device), "concept": concepts.repeat_interleave(k)}
        points["target"] = self._target(*predictions.flatten(1, 2)) if known else self._targets(points, n)
        return shuffled(points, config.batch_size, generator)

    def _concepts_of(self, slot: int, first: int, n: int) -> Tensor:
        """The concepts of n trajectories of a slot from number `first` on: repeated cycles of all, each shuffled."""
        of = len(self._concepts)
        cycles = range(first // of, -(-(first + n) // of))
        orders = [torch.randperm(of, generator=seeded(self._config.seed, slot, -1 - cycle)) for cycle in cycles]
        return torch.cat(orders)[first % of :][:n]

    def _targets(self, points: Points, batch_size: int) -> Tensor:
        """The targets of points, (m, C, h, w); a batch of the teacher has all prompts of `batch_size` points."""
        return self._target(*predictions_at(self._networks.teacher, points, "concept", self._texts_of, batch_size))

    def _texts_of(self, concepts: Tensor) -> list[Tensor]:
        """The texts of the target for concepts (b,): '', c and, with `erase_from`, f, (b, R, d) each."""
        source = [self._student_text(concepts)] if len(self._erase_from) else []
        return [self._null.expand(len(concepts), -1, -1), self._concepts[concepts], *source]


def _names(request: Request, config: EsdConfig) -> list[str]:
    """The names of the concepts, split at the separator if there is one."""
    if config.separator is None:
        return list(request.names)
    words = [word.strip() for name in request.names for word in name.split(config.separator)]
    if not any(words):
        raise BadRequest(f"The separator '{config.separator}' leaves nothing of '{request.names[0]}'; leave it out.")
    return [word for word in words if word]


def erase(
    model: Model, request: Request, config: EsdConfig, context: RunContext, write_snapshot: SnapshotWriter
) -> Solution:
    """Train each concept, starting from the base, or all together.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps.
    """

    def objective(part: Request) -> Esd:
        return Esd(model, part, config)

    return train_concepts(model, request, config, context, write_snapshot, objective, together=config.together)


ENTRY = Method(
    name="esd",
    summary="Trains the model towards its frozen copy, guided away from the concept.",
    paper="https://arxiv.org/abs/2303.07345",
    repository="https://github.com/rohitgandikota/erasing",
    edit="weight",
    config=EsdConfig,
    erase=erase,
    combine=combine_components,
    uses_guides=False,
    uses_preserve=False,
    needs=("context", "write_snapshot"),
    families=("sd", "sdxl", "sd3", "flux", "generic"),
)
