"""Training of a request's concepts: one component per concept, or one for all if they are trained together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from efface.edits.kinds import WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.files import locked, made_folder, remove_partial, slug
from efface.methods.base import CannotCombine, SnapshotWriter
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.loop import Training
from efface.methods.training.objective import Objective, TrainingConfig
from efface.methods.training.text_encoders import Waiting, waiting_on_cpu
from efface.methods.training.tracking import check_tracker, finish, track, track_pictures
from efface.methods.training.weights import Weights, check_options, check_trainable, frozen
from efface.models.active import identity_of_active
from efface.models.checkpointing import checkpointed
from efface.models.model import Model
from efface.models.text.embedded import Embedded
from efface.progress import RunContext
from efface.request.record import Request

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Settings that do not change the result of a training.
_ASIDE = {"save_freq", "report_to", "validation_steps", "validation_prompt", "num_validation_images"}
#: The stored input with the concept of each edit.
OWNER = "owner"


def train_concepts(
    model: Model,
    request: Request,
    config: TrainingConfig,
    context: RunContext,
    write_snapshot: SnapshotWriter,
    objective_of: Callable[[Request], Objective],
    *,
    together: bool = False,
) -> Solution:
    """Train a request's concepts one after the other, each from the base, or all together.

    Args:
        model: The model whose denoiser is trained. Its weights do not change.
        request: The concepts.
        config: The method's settings.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps (`save_freq`).
        objective_of: Returns the objective for a request with one concept, or with all of them if `together`.
        together: Whether to train the concepts as one component. It can be split only if its weights record the
            concept of each edit.

    Raises:
        BadFile: Another training writes to the folder.
        BadInput: The model cannot be trained, a setting does not fit, or the training diverged.
    """
    check_options(model)
    if config.validation_steps is not None and (context.folder is None or context.draw is None):
        raise BadInput("validation_steps needs a folder for the images; pass context=RunContext(folder=...).")
    embedded = model.embed(request.names, clip_skip=request.clip_skip)
    started = time.perf_counter()
    edits: list[WeightEdit] = []
    owners: list[int] = []
    runs: list[dict[str, Any]] = []
    separable = True
    with (
        waiting_on_cpu(model) as waiting,
        frozen(model.denoiser),
        checkpointed(model.denoiser, config.gradient_checkpointing),
        _accelerated(model, config, context.folder) as accelerator,
        _claimed(context.folder if accelerator.is_main_process else None),
    ):
        check_trainable(model)
        facts = _facts(model, config, accelerator) if context.folder else {}
        parts = [request] if together else [request.keeping([name]) for name in request.names]
        snapshot = partial(_snapshot, write_snapshot, config, embedded)
        trainer = _ComponentTrainer(accelerator, config, context, snapshot, facts, len(parts), waiting)
        for index, part in enumerate(parts):
            steps_before = sum(run["steps"] for run in runs)
            objective = objective_of(part)
            run = trainer.train(objective, index, part, steps_before)
            of_component = objective.weights.owners()
            edits += objective.weights.edits()
            owners += [index + owner for owner in of_component or [0] * len(objective.weights.edits())]
            separable = not together or of_component is not None
            runs.append(run)
            accelerator.free_memory()
    notes = {"settings": config.model_dump(), "training": runs}
    inputs = _inputs(owners if separable else None)
    return Solution(request, tuple(edits), inputs, notes, embedded, time.perf_counter() - started)


def _snapshot(
    write: SnapshotWriter,
    config: TrainingConfig,
    embedded: Embedded,
    part: Request,
    weights: Weights,
    step: int,
    path: Path,
) -> None:
    """Write the eraser of the weights after `step` steps."""
    notes = {"settings": config.model_dump(), "steps": step}
    write(Solution(part, weights.edits(), _inputs(weights.owners()), notes, embedded), path)


@dataclass(frozen=True)
class _ComponentTrainer:
    """The common arguments of the trainings of one request.

    Attributes:
        accelerator: The accelerator.
        config: The method's settings.
        context: The folder for checkpoints, and the progress callback.
        snapshot: (request, weights, step, path) -> None: writes an eraser.
        facts: Everything that determines the result besides the request.
        count: The number of components.
        waiting: The text encoders.
    """

    accelerator: Accelerator
    config: TrainingConfig
    context: RunContext
    snapshot: Callable[[Request, Weights, int, Path], None]
    facts: Mapping[str, Any]
    count: int
    waiting: Waiting

    def train(self, objective: Objective, index: int, part: Request, steps_before: int) -> dict[str, Any]:
        """Train one component, and return the record of its training.

        Args:
            objective: The objective; its weights are trained.
            index: The position of the component.
            part: Its concepts.
            steps_before: The steps of earlier components, since the steps of a tracker must not decrease.
        """
        context, freq = self.context, self.config.save_freq
        title = ", ".join(part.names)
        checkpoints = None
        if context.folder is not None:
            described = part.model_dump(mode="json", include={"concepts", "method", "clip_skip"})
            facts = {**self.facts, "request": described, "data": objective.data}
            checkpoints = Checkpoints(context.folder, index, facts, context.force, last=index + 1 == self.count)

        def save(step: int) -> Path:
            assert checkpoints is not None
            path = checkpoints.snapshot(step)
            self.snapshot(part, objective.weights, step, path)
            return path

        def report(step: int, losses: Mapping[str, float]) -> None:
            if self.config.report_to is not None:
                values = {f"{title}/{key}": value for key, value in losses.items()}
                track(self.accelerator, self.config, values, steps_before + step)
            if context.progress:
                context.progress(title, step, objective.iterations, f"loss {losses['loss']:.3g}")
            if checkpoints is not None and freq is not None and step % freq == 0:
                save(step)
            if self.config.validation_steps is not None and step % self.config.validation_steps == 0:
                self._draw(part, objective.weights, index, step, steps_before + step)

        training = Training(self.accelerator, objective, checkpoints, report, save if checkpoints else None)
        training.run()
        return {"concepts": list(part.names), "steps": training.step, "losses": training.losses}

    def _draw(self, part: Request, weights: Weights, index: int, step: int, step_of_all: int) -> None:
        """Write sample images of each concept, and log them to the tracker, at its step `step_of_all`."""
        context, config = self.context, self.config
        assert context.folder is not None
        assert context.draw is not None
        for name in part.names:
            folder = context.folder / "samples" / f"component-{index}-step-{step}-{slug(name)}"
            prompt = config.validation_prompt.replace("{}", name)
            with self.waiting.interrupted(), torch.no_grad():
                pictures = context.draw(prompt, config.num_validation_images, weights.edits(), folder)
            if config.report_to is not None:
                track_pictures(self.accelerator, config, f"{name}/samples", pictures, step_of_all)


def combine_components(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of some of one part's concepts: the other concepts' changes are left out, and nothing is trained.

    Raises:
        CannotCombine: The concepts were trained together; or there are several parts, whose sum is exact because each
            was trained from the base.
    """
    if len(parts) > 1:
        raise CannotCombine("each was trained from the base", sum_is_exact=True)
    (part,) = parts
    if OWNER not in part.inputs:
        raise CannotCombine(f"{', '.join(part.concepts)} were trained together; train them separately")
    owners = [int(owner) for owner in part.inputs[OWNER]]
    remaining = [index for index, owner in enumerate(owners) if part.concepts[owner] in request.names]
    inputs = _inputs([request.names.index(part.concepts[owners[index]]) for index in remaining])
    return replace(part, request=request, edits=tuple(part.edits[index] for index in remaining), inputs=inputs)


def _inputs(owners: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """The stored input that splits an eraser into components: the concept of each edit."""
    return {} if owners is None else {OWNER: torch.tensor(owners)}


def _facts(model: Model, config: TrainingConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Everything that determines the result besides the request."""
    edits = identity_of_active(model.denoiser)
    return {
        "model": {part: model.part_hash(part) for part in (*model.encoder_parts, model.denoiser_part)},
        **({"edited": edits} if edits else {}),
        "dtype": str(model.dtype),
        "precision": accelerator.mixed_precision,
        "slots": accelerator.num_processes * accelerator.gradient_accumulation_steps,
        "settings": config.model_dump(mode="json", exclude=_ASIDE),
    }


@contextmanager
def _claimed(folder: Path | None) -> Generator[None, None, None]:
    """Make the folder of a training, and lock it while the training runs; without a folder, do nothing."""
    if folder is None:
        yield
        return
    with made_folder(folder), locked(folder):
        remove_partial(folder)
        yield


@contextmanager
def _accelerated(model: Model, config: TrainingConfig, folder: Path | None) -> Generator[Accelerator, None, None]:
    """An accelerator with the options of the settings or of `accelerate launch`, and with the chosen tracker."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, is_initialized

    on_cpu = model.device.type == "cpu"
    precision = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "fp16" and on_cpu:
        raise BadInput("mixed_precision=fp16 needs a GPU; use bf16, or none, on the CPU.")
    check_tracker(config, folder)
    # accelerate has one global state per process. An Accelerator of the caller must stay valid.
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
            # The process group of `accelerate launch` stays, for the next training.
            state._reset_state(reset_partial_state=accelerator.num_processes == 1)
