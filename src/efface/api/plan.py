"""`efface.plan`: what a model and a method need in memory, from configurations and headers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.eraser.recommended import PRESET, PUBLISHED
from efface.errors import BadInput
from efface.methods import METHODS
from efface.models.memory import PartSize, WorkMemory, part_sizes, solve_memory, work_memory
from efface.models.open import open_model
from efface.models.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from efface.models import Model
    from efface.settings import Scalar

_BYTES = {"float32": 4, "bf16": 2}
_NF4 = 0.5 + 1 / 64  # bytes of an entry: 4 bits, and a scale of 8 bits for 64 entries
_GIB = 2**30
#: Memory of a GPU that its context takes.
_CONTEXT = 0.7 * _GIB
#: Rows of a batch while trajectories or images for a training are sampled: four, with guidance.
_SAMPLED = 8
#: Bytes of a trained parameter: a float32 copy, its gradient, and the two moments of Adam.
_COPY, _GRADIENT, _MOMENTS = 4, 4, 8


@dataclass(frozen=True)
class PlannedPart:
    """A part with weights.

    Attributes:
        parameters: The number of its parameters.
        file_bytes: The size of its tensors in the files; None if they are not on this machine.
        bytes: Its size in memory, by type of the weights.
    """

    parameters: int
    file_bytes: int | None
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class PlannedWork:
    """One way to do a piece of work.

    Attributes:
        work: The work: erase, train, train with gradient checkpointing, or generate.
        dtype: The type of the weights.
        offload: What waits in the memory of the CPU, as in `efface.Runtime`.
        quantize: The type that stores the denoiser's weights, as in `efface.Runtime`.
        bytes: The peak of the memory, without the context of a GPU.
        fits: "yes", "borderline" (within 10%) or "no" with the memory that was given, of which the context of a GPU
            takes 0.7 GiB; None without one.
    """

    work: str
    dtype: str
    offload: str
    quantize: str
    bytes: int
    fits: str | None


@dataclass(frozen=True)
class PlanResult(VerbResult):
    """What a model and a method need; every number is an estimate.

    Attributes:
        model: The name of the model.
        family: Its family.
        method: The name of the method.
        size: The side of an image in pixels; None is the default of the model.
        vram: The memory that was given, in GiB.
        parts: The parts with weights, by name.
        trained: The number of parameters that the method trains; 0 for a closed form.
        work: The ways to do the work; those with activations are missing for a denoiser of an unknown class.
    """

    model: str
    family: str
    method: str
    size: int | None
    vram: float | None
    parts: Mapping[str, PlannedPart]
    trained: int
    work: Sequence[PlannedWork]


@none_is_not_given
def plan(
    model: Path | str,
    method: str = "uce",
    *,
    vram: float | None = None,
    size: int | None = None,
    **options: Scalar,
) -> PlanResult:
    """Estimate the memory that a method needs on a model. No weights are loaded, and none are downloaded.

    Example:
        >>> efface.plan("path/to/sdxl", "esd", vram=24, train_method="esd-x").work[0].fits
        'yes'

    Args:
        model: The name or the folder of a model.
        method: The name of the method.
        vram: The memory of the GPU in GiB.
        size: The side of an image in pixels.
        **options: The method's own settings.

    Raises:
        BadInput: There is no such model or method, or the model has no files to read.
    """
    entry = METHODS.get(method)
    if options.get(PRESET) == PUBLISHED:  # of every method; the values that it changes do not need memory
        del options[PRESET]
    settings: Any = entry.config.model_validate(options)
    if vram is not None and not 0 < vram < math.inf:
        raise BadInput(f"--vram {vram:g} is no memory; give GiB, e.g. --vram 24.")
    opened = open_model(model, Runtime("cpu", dtype="float32"))
    if entry.families is not None and opened.family not in entry.families:
        raise BadInput(f"{method} does not support {opened.name}, which is of the family {opened.family}.")
    if entry.trained and (reason := opened.untrainable):
        raise BadInput(f"{opened.name} {reason}.")
    folder = opened.files
    sizes = part_sizes(folder)
    student = _student(opened, method, settings) if entry.trained else None
    rows = _SAMPLED if entry.trained else 2
    memory = work_memory(folder, opened.denoiser_part, size, rows, torch.float32, student)
    work = [*_erasing(opened, sizes, memory), *_generating(opened.denoiser_part, sizes, memory)]
    return PlanResult(
        model=opened.name,
        family=opened.family,
        method=method,
        size=size,
        vram=vram,
        parts={
            name: PlannedPart(part.parameters, part.file_bytes, {k: part.parameters * b for k, b in _BYTES.items()})
            for name, part in sizes.items()
        },
        trained=memory.trained if memory else 0,
        work=[PlannedWork(*names, count, _fits(count, vram)) for names, count in work],
    )


def _student(model: Model, method: str, settings: Any) -> Callable[[nn.Module], nn.Module]:
    """Makes the weights that a method trains in a denoiser, for a concept that is an object."""
    from efface.methods.training.low_rank import LowRank
    from efface.methods.training.weights import Copies

    if method == "lora":
        first = torch.Generator()
        return lambda denoiser: LowRank(denoiser, settings.layers(denoiser), settings.rank, settings.alpha, first)
    names = _trained(model, method, settings)
    return lambda denoiser: Copies(denoiser, names(denoiser))


def _trained(model: Model, method: str, settings: Any) -> Callable[[nn.Module], Collection[str]]:
    """Chooses the parameters that a method trains copies of."""
    from efface.methods.trained.ablate.weights import group_parameters
    from efface.methods.trained.denoiser_parameters import trained_parameters
    from efface.methods.trained.esd import train_method_of

    if method == "esd":
        chosen = train_method_of(settings, "object")
        return lambda denoiser: trained_parameters(denoiser, chosen, settings.mu_quirk)
    if method == "ablate":
        group = settings.chosen("object").parameter_group
        if group == "embedding":
            raise BadInput("A training of the text encoder cannot be planned; choose another parameter_group.")
        return lambda denoiser: group_parameters(denoiser, group)
    if method == "cie":
        return lambda denoiser: trained_parameters(denoiser, "esd-x")
    readers: tuple[str, ...] = getattr(model, "readers", {})[model.stream]
    return lambda denoiser: [name for name, _ in denoiser.named_parameters() if name.endswith(readers)]


_Work = tuple[tuple[str, str, str, str], int]


def _erasing(model: Model, sizes: Mapping[str, PartSize], memory: WorkMemory | None) -> list[_Work]:
    """A closed form, or a training, by type of the weights."""
    encoders = sum(part.parameters for name, part in sizes.items() if name.startswith("text_encoder"))
    if memory is None or memory.step is None:
        largest = sizes[model.denoiser_part].largest
        return [
            (("erase", name, "none", "none"), solve_memory(model.width, encoders, each, largest))
            for name, each in _BYTES.items()
        ]
    work: list[_Work] = []
    for title, step in (("train", memory.step), ("train with gradient checkpointing", memory.step_checkpointed)):
        assert step is not None
        for name, each in _BYTES.items():
            held = sizes[model.denoiser_part].parameters * each + memory.trained * (_COPY + _MOMENTS)
            moving = max(step, memory.predict) * each // 4
            training = held + max(moving, memory.trained * 2 * _GRADIENT)
            # The text encoders wait on the CPU while the denoiser is trained.
            work.append(((title, name, "none", "none"), max(encoders * each, training)))
    return work


def _generating(denoiser: str, sizes: Mapping[str, PartSize], memory: WorkMemory | None) -> list[_Work]:
    if memory is None:
        return []
    ways = [("float32", "none", "none"), ("bf16", "none", "none"), ("bf16", "none", "fp8")]
    ways += [("bf16", "none", "nf4"), ("bf16", "model", "none"), ("bf16", "model", "fp8"), ("bf16", "model", "nf4")]
    ways += [("bf16", "sequential", "none")]
    work: list[_Work] = []
    for dtype, offload, quantize in ways:
        each = _BYTES[dtype]
        stored = {name: part.parameters * each for name, part in sizes.items()}
        if quantize == "fp8":
            stored[denoiser] //= 2
        elif quantize == "nf4":
            stored[denoiser] -= round(memory.linear * (each - _NF4))
        active = {**dict.fromkeys(sizes, 0), denoiser: memory.predict * each // 4, "vae": memory.decode * each // 4}
        if offload == "none":
            total = sum(stored.values()) + max(active.values())
        elif offload == "model":
            total = max(stored[name] + active[name] for name in sizes)
        else:
            total = max(part.largest for part in sizes.values()) * each + max(active.values())
        work.append((("generate", dtype, offload, quantize), total))
    return work


def _fits(count: int, vram: float | None) -> str | None:
    if vram is None:
        return None
    share = (count + _CONTEXT) / (vram * _GIB)
    return "yes" if share <= 0.9 else "borderline" if share <= 1 else "no"
