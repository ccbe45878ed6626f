"""Whole edited weights by diffusers' names, as the UCE and ESD repositories save them.

    MODULE.weight   of every parameter of the denoiser that is changed

`unet.load_state_dict(load_file(FILE), strict=False)` loads it. For an edit of the text these are all attn2.to_k and
attn2.to_v, as UCE's own files have them.
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
from efface.formats.base import Exported, Exporter, save
from efface.formats.changes import changes
from efface.formats.names import is_beside, open_clip_names, parameter_names, unwrapped
from efface.formats.reading import Checkpoint
from efface.models.storage.compvis import OPEN_CLIP

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.eraser.eraser import Eraser
    from efface.models import Model


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write the file."""
    tensors: dict[str, Tensor] = {}
    for change in changes(eraser, model):
        if change.part != "denoiser":
            raise BadInput(
                f"The eraser changes {change.part}.{change.name}, and this format holds the denoiser alone; "
                "export it as diffusers or single-file."
            )
        tensors[change.name] = change.edited.to(model.dtype)
    save(path, tensors, eraser, force)
    return Exported(path, len(tensors))


EXPORTER = Exporter(
    name="uce",
    summary="Whole edited weights as UCE and ESD save them: unet.load_state_dict(..., strict=False).",
    suffix=".safetensors",
    write=write,
)


# Whole weights of an edited model as changes of its base, without the parameters that are equal bit for bit.
#
# A change D that is exactly of low rank is kept as factors. The file holds W + D rounded to its type, so D counts as
# of
# rank r if what is left out is within that rounding, |D - D_r| <= eps |W + D|, and within a thousandth of the change:
# files in half precision hardly ever are. To find factors, D is first seen from some random directions: Q of the QR of
# D Omega spans its columns if there are no more of them.


_LEFT_OUT = 1e-3  # of the change
_TRIED = 0.25  # of the smaller side: factors of a larger rank hardly save anything


def weight_edits(checkpoint: Checkpoint, model: Model, ema: bool = False) -> Iterator[WeightEdit]:
    """The edits that make the base's weights the file's, one after the other.

    Args:
        checkpoint: all parameters of a model, or some.
        model: the base.
        ema: take a CompVis checkpoint's exponential moving averages.

    Raises:
        BadInput: the file has no such averages, or is for another model.
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
    """A function that reads it for each parameter of the model that the file has, by full name."""
    table, joined = parameter_names(model, ema), open_clip_names(model)
    found: dict[str, Callable[[], Tensor]] = {}
    strange: list[str] = []
    for name, read in checkpoint.tensors.items():
        name = unwrapped(name)
        if name in table:
            found[table[name]] = read
        elif name.startswith(OPEN_CLIP):  # diffusers leaves OpenCLIP's last layer and its projection out
            found |= {full: partial(_third, read, third) for full, third in joined.get(name, ())}
        elif not is_beside(name, ema):
            strange.append(name)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise BadFile(f"{checkpoint.path} is for another model: {model.name} has no parameter '{strange[0]}'{more}.")
    if ema and not any(full.startswith("denoiser.") for full in found):
        raise BadInput(f"{checkpoint.path} has no EMA weights; leave --ema away.")
    if not found:
        raise BadFile(f"{checkpoint.path} holds no parameter of a denoiser or a text encoder.")
    return found


def _third(read: Callable[[], Tensor], third: int | None) -> Tensor:
    return read() if third is None else read().chunk(3)[third]


def _edit(full: str, base: Tensor, weight: Tensor, checkpoint: Checkpoint) -> WeightEdit | None:
    if _flat(weight).shape != _flat(base).shape:
        raise BadFile(
            f"{checkpoint.path} is for another model: {full} is {tuple(weight.shape)} there, and "
            f"{tuple(base.shape)} in the model."
        )
    weight = weight.reshape(base.shape)
    # Of two types, the coarser one cannot hold more.
    if torch.equal(base.to(weight.dtype), weight) or torch.equal(base, weight.to(base.dtype)):
        return None
    delta = weight.double() - base.double()
    if not delta.isfinite().all():
        raise BadFile(f"{checkpoint.path} is damaged: {full} is not finite.")
    rounding = torch.finfo(weight.dtype).eps * float(weight.double().norm())
    factors = factored(_flat(delta), min(rounding, _LEFT_OUT * float(delta.norm())))
    if factors is None:
        return WeightEdit(full, delta=delta.float())
    return WeightEdit(full, up=factors[0].float(), down=factors[1].float())


def _flat(tensor: Tensor) -> Tensor:
    """As a matrix: a linear map and a convolution of 1 x 1 are the same."""
    return tensor.reshape(len(tensor), -1)


def factored(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """up (m, r) and down (r, n) of a matrix (m, n), to a Frobenius norm of `tolerance`, if they are smaller than it."""
    rows, columns = matrix.shape
    tried = min(int(_TRIED * min(rows, columns)) + 1, rows, columns)
    random = torch.randn(columns, tried, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(matrix @ random).Q
    seen = basis.T @ matrix
    outside = (matrix - basis @ seen).norm()
    if outside > tolerance:
        return None
    left, values, right = torch.linalg.svd(seen, full_matrices=False)
    tails = values.square().flip(0).cumsum(0).flip(0) + outside.square()  # what is left out with the first r kept
    rank = int((tails > tolerance**2).sum())
    if not rank or rank * (rows + columns) >= rows * columns:
        return None
    return basis @ left[:, :rank] * values[:rank], right[:rank]
