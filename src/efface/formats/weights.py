"""Complete edited weights: files as of the UCE and ESD repositories, and the reader of edited checkpoints.

    MODULE.weight   for every changed parameter of the denoiser, by diffusers' names

`unet.load_state_dict(load_file(FILE), strict=False)` loads such a file. For a text edit it has all attn2.to_k and
attn2.to_v, like the files of UCE.

The reader turns the weights of an edited model, all or some, into changes of its base. Parameters that are equal bit
for bit are left out. A change D of exactly low rank becomes factors. The file has W + D rounded to its type, so D
counts as of rank r if the error is within that rounding, |D - D_r| <= eps |W + D|, and within a thousandth of the
change; files in half precision are hardly ever of low rank in this sense. To find the factors, D is first multiplied
with a random matrix Omega: if the rank of D is at most its width, Q of the QR decomposition of D Omega spans the
columns of D.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.errors import BadFile, BadInput
from efface.formats.base import Exported, Exporter, save_tensors
from efface.formats.changes import parameter_changes
from efface.formats.conversion import converted
from efface.formats.names import is_unrelated, open_clip_names, parameter_names, unwrapped
from efface.formats.reading import Checkpoint
from efface.models.storage.compvis import OPEN_CLIPS, open_clip_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.eraser.eraser import Eraser
    from efface.models import Model

_TOLERANCE = 1e-3  # relative to the change
_LARGEST_RANK = 0.25  # relative to the smaller side: factors of a larger rank save hardly any space


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    tensors: dict[str, Tensor] = {}
    for change in parameter_changes(eraser, model):
        if change.part != "denoiser":
            raise BadInput(
                f"The eraser changes {change.part}.{change.name}, and this format has only the denoiser; "
                "export it as diffusers or single-file."
            )
        tensors[change.name] = converted(change.name, change.edited, model.dtype)
    save_tensors(path, tensors, eraser, force)
    return Exported(path, len(tensors))


def weight_edits(checkpoint: Checkpoint, model: Model, ema: bool = False) -> Iterator[WeightEdit]:
    """The edits that turn the base's weights into those of a file, one after the other.

    Args:
        checkpoint: The file, with all or some parameters of a model.
        model: The base.
        ema: Whether to use the exponential moving averages of a CompVis checkpoint.

    Raises:
        BadInput: The file has no such averages, or is for another model.
    """
    readers = _readers(checkpoint, model, ema)
    of_part: dict[str, set[str]] = {}
    for full in readers:
        part, _, name = full.partition(".")
        of_part.setdefault(part, set()).add(name)
    for part, names in of_part.items():
        for name, base in model.weights(part, names):
            edit = _edit(f"{part}.{name}", base.cpu(), readers[f"{part}.{name}"](), checkpoint)
            if edit is not None:
                yield edit


def _readers(checkpoint: Checkpoint, model: Model, ema: bool) -> dict[str, Callable[[], Tensor]]:
    """For each parameter of the model that the file has, by full name, a function that reads it."""
    table, joined = parameter_names(model, ema), open_clip_names(model)
    readers: dict[str, Callable[[], Tensor]] = {}
    unknown: list[str] = []
    for name, read in checkpoint.tensors.items():
        name = unwrapped(name)
        if name in table:
            readers[table[name]] = read
        elif name.startswith(OPEN_CLIPS):  # diffusers omits OpenCLIP's last layer and its projection in 2.x
            readers |= {full: partial(_of_open_clip, read, full, third) for full, third in joined.get(name, ())}
        elif not is_unrelated(name, ema):
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise BadFile(f"{checkpoint.path} is for another model: {model.name} has no parameter '{unknown[0]}'{more}.")
    if ema and not any(full.startswith("denoiser.") for full in readers):
        raise BadInput(f"{checkpoint.path} has no EMA weights; leave out --ema.")
    if not readers:
        raise BadFile(f"{checkpoint.path} has no parameter of a denoiser or a text encoder.")
    return readers


def _of_open_clip(read: Callable[[], Tensor], full: str, third: int | None) -> Tensor:
    """The tensor of a parameter, (...), read from the one of OpenCLIP that contains it."""
    return open_clip_tensor(full.partition(".")[2], read()) if third is None else read().chunk(3)[third]


def _edit(full: str, base: Tensor, weight: Tensor, checkpoint: Checkpoint) -> WeightEdit | None:
    if _flat(weight).shape != _flat(base).shape:
        raise BadFile(
            f"{checkpoint.path} is for another model: {full} is {tuple(weight.shape)} there, and "
            f"{tuple(base.shape)} in the model."
        )
    weight = weight.reshape(base.shape)
    # With two types, equality can be tested only in the coarser one.
    if torch.equal(base.to(weight.dtype), weight) or torch.equal(base, weight.to(base.dtype)):
        return None
    delta = weight.double() - base.double()
    if not delta.isfinite().all():
        raise BadFile(f"{checkpoint.path} is damaged: {full} is not finite.")
    rounding = torch.finfo(weight.dtype).eps * float(weight.double().norm())
    factors = factored(_flat(delta), min(rounding, _TOLERANCE * float(delta.norm())))
    if factors is None:
        return WeightEdit(full, delta=delta.float())
    return WeightEdit(full, up=factors[0].float(), down=factors[1].float())


def _flat(tensor: Tensor) -> Tensor:
    """As a matrix, so that a linear layer and a 1 x 1 convolution are the same."""
    return tensor.reshape(len(tensor), -1)


def factored(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Factor a matrix (m, n) into up (m, r) and down (r, n), with a Frobenius error of at most `tolerance`.

    Returns:
        The factors, or None if they would have more elements than the matrix.
    """
    rows, columns = matrix.shape
    tried = min(int(_LARGEST_RANK * min(rows, columns)) + 1, rows, columns)
    random = torch.randn(columns, tried, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(matrix @ random).Q
    projected = basis.T @ matrix
    outside = (matrix - basis @ projected).norm()
    if outside > tolerance:
        return None
    left, values, right = torch.linalg.svd(projected, full_matrices=False)
    tails = values.square().flip(0).cumsum(0).flip(0) + outside.square()  # squared errors of rank r
    rank = int((tails > tolerance**2).sum())
    if not rank or rank * (rows + columns) >= rows * columns:
        return None
    return basis @ left[:, :rank] * values[:rank], right[:rank]


ENTRY = Exporter(
    name="uce",
    summary="Complete edited weights as saved by UCE and ESD: unet.load_state_dict(..., strict=False).",
    suffix=".safetensors",
    write=_write,
)
