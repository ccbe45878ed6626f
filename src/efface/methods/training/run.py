"""From a request to an eraser by training: one component a concept, or one for all where they are trained together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.edits.kinds import WeightEdit
from efface.eraser.base import with_parameters
from efface.eraser.eraser import Base, Eraser
from efface.errors import BadInput, BadRequest
from efface.methods.closed_form.tokens import base_of, provenance
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.loop import Training
from efface.methods.training.objective import Objective, TrainingConfig
from efface.methods.training.tracking import check_tracker, finish, track
from efface.methods.training.weights import check_trainable, frozen
from efface.models.model import Model
from efface.progress import RunContext
from efface.provenance import versions
from efface.request.record import Request

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Settings that say what is kept and shown of a training, and not what comes of it.
_ASIDE = {"save_freq", "report_to"}
_OWNER = "owner"


def train_eraser(
    model: Model,
    request: Request,
    config: TrainingConfig,
    work: RunContext,
    objective_of: Callable[[Request], Objective],
    *,
    together: bool = False,
) -> Eraser:
    """Train a request's concepts one after the other, each from the base, or all together.

    Args:
        model: whose denoiser is trained; it stays as it is.
        request: what to erase.
        config: the method's settings.
        work: folder and progress.
        objective_of: makes the objective of a request's concepts: of one at a time, or of all `together`.
        together: train the concepts as one component, which cannot be split unless its weights know whose each edit is.
    """
    check_trainable(model)
    started = time.perf_counter()
    base = base_of(model, model.embed(request.names, clip_skip=request.clip_skip))
    solving = time.perf_counter()
    edits: list[WeightEdit] = []
    owners: list[int] = []
    runs: list[dict[str, Any]] = []
    separable = True
    with frozen(model.denoiser), _accelerated(model, config, work.folder) as accelerator:
        facts = _facts(model, config, accelerator) if work.folder else {}
        parts = [request] if together else [request.keeping([name]) for name in request.names]
        frame = _Frame(accelerator, model, config, work, base, facts, len(parts))
        for index, part in enumerate(parts):
            before = sum(run["steps"] for run in runs)
            made, apart, run = frame.train(objective_of(part), index, part, before)
            edits += made
            owners += [index + own for own in apart or [0] * len(made)]
            separable = not together or apart is not None
            runs.append(run)
            accelerator.free_memory()
    told = {**provenance(config.model_dump(), started, solving), "training": runs}
    return Eraser(request, tuple(edits), base, _inputs(owners if separable else None), told)


@dataclass(frozen=True)
class _Frame:
    """What the trainings of one request have in common; `facts` determine their outcome, `count` is how many."""

    accelerator: Accelerator
    model: Model
    config: TrainingConfig
    work: RunContext
    base: Base
    facts: Mapping[str, Any]
    count: int

    def train(
        self, objective: Objective, index: int, part: Request, before: int
    ) -> tuple[tuple[WeightEdit, ...], tuple[int, ...] | None, dict[str, Any]]:
        """One component: its edits, whose they are if it is of several concepts, and how its training went.

        A tracker's steps go on from those `before` it: they may not fall.
        """
        work, accelerator, freq, weights = self.work, self.accelerator, self.config.save_freq, objective.weights
        title = ", ".join(part.names)
        checkpoints = None
        if work.folder is not None:
            asked = part.model_dump(mode="json", include={"concepts", "method", "clip_skip"})
            facts = {**self.facts, "request": asked, "data": objective.data}
            checkpoints = Checkpoints(work.folder, index, facts, work.force, last=index + 1 == self.count)

        def keep(step: int) -> Path:
            assert checkpoints is not None
            told = {"settings": self.config.model_dump(), "versions": versions(), "steps": step}
            snapshot = Eraser(part, weights.edits(), self.base, _inputs(weights.owners()), told)
            path = checkpoints.snapshot(step)
            with_parameters(snapshot, self.model).save(path, force=True)
            return path

        def tell(step: int, losses: Mapping[str, float]) -> None:
            if self.config.report_to is not None:
                values = {f"{title}/{key}": value for key, value in losses.items()}
                track(accelerator, self.config, values, before + step)
            if work.progress:
                work.progress(title, step, objective.iterations, f"loss {losses['loss']:.3g}")
            if checkpoints is not None and freq is not None and step % freq == 0:
                keep(step)

        training = Training(accelerator, objective, checkpoints, tell, keep if checkpoints else None)
        training.run()
        told = {"concepts": list(part.names), "steps": training.step, "losses": training.losses}
        return weights.edits(), weights.owners(), told


def drop_components(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts: the others' changes are left out, and nothing is trained again.

    Raises:
        BadRequest: the concepts were trained together.
    """
    request = eraser.request.keeping(names)
    if request.names == eraser.concepts:
        return eraser
    if _OWNER not in eraser.inputs:
        raise BadRequest(f"{', '.join(eraser.concepts)} were trained together and cannot be split; train them apart.")
    owners = [int(owner) for owner in eraser.inputs[_OWNER]]
    kept = [index for index, owner in enumerate(owners) if eraser.concepts[owner] in request.names]
    inputs = {_OWNER: torch.tensor([request.names.index(eraser.concepts[owners[index]]) for index in kept])}
    return replace(eraser, request=request, edits=tuple(eraser.edits[index] for index in kept), inputs=inputs)


def _inputs(owners: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """What tells the components of an eraser apart: the concept of each edit."""
    return {} if owners is None else {_OWNER: torch.tensor(owners)}


def _facts(model: Model, config: TrainingConfig, accelerator: Accelerator) -> dict[str, Any]:
    """What determines the outcome beside the request."""
    return {
        "model": {part: model.part_hash(part) for part in ("text_encoder", "unet")},
        "dtype": str(model.dtype),
        "precision": accelerator.mixed_precision,
        "slots": accelerator.num_processes * accelerator.gradient_accumulation_steps,
        "settings": config.model_dump(mode="json", exclude=_ASIDE),
    }


@contextmanager
def _accelerated(model: Model, config: TrainingConfig, folder: Path | None) -> Generator[Accelerator, None, None]:
    """accelerate, set up as the settings or `accelerate launch` say, with the tracker that was asked for."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, is_initialized

    on_cpu = model.device.type == "cpu"
    precision = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "fp16" and on_cpu:
        raise BadInput("mixed_precision=fp16 needs a GPU; use bf16, or none, on the CPU.")
    check_tracker(config, folder)
    # accelerate keeps one state a process; an Accelerator of the caller's own stays.
    ours = not is_initialized()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_dir=folder,
    )
    try:
        yield accelerator
    finally:
        finish(accelerator)
        if ours:
            state: Any = AcceleratorState
            # The group of launched processes lives on, for the next training.
            state._reset_state(reset_partial_state=accelerator.num_processes == 1)
