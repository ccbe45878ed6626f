"""An eraser as changes of single parameters, streamed: low-rank factors where possible, dense matrices otherwise.

A text edit turns every W that reads the text into W (I + L R^T), so the change is (W L) R^T, of the edit's rank.
Together with a weight edit A, W becomes (W + A) (I + L R^T), and the change is A + (W + A) L R^T. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.edits.composition import by_stream
from efface.edits.kinds import TextEdit, WeightEdit
from efface.errors import BadInput
from efface.formats.conversion import converted

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


@dataclass(frozen=True, eq=False)
class ParameterChange:
    """The change of one parameter: up @ down + rest.

    Attributes:
        part: The part of the model that has the parameter ("denoiser").
        name: The parameter's name in that part.
        weight: The unchanged parameter, of any shape.
        up: The left factor, of shape (d_out, r), float64. None if there is no low-rank part.
        down: The right factor, of shape (r, d_in) with all other dimensions flattened, float64, or None.
        rest: The part without factors, of shape (d_out, d_in), float64, or None.
    """

    part: str
    name: str
    weight: Tensor
    up: Tensor | None
    down: Tensor | None
    rest: Tensor | None

    @property
    def matrix(self) -> Tensor:
        """The change as a matrix of shape (d_out, d_in), with all other dimensions flattened."""
        total = torch.zeros_like(self.weight, dtype=torch.float64).reshape(len(self.weight), -1)
        if self.up is not None and self.down is not None:
            total = total + self.up @ self.down
        return total if self.rest is None else total + self.rest

    @property
    def edited(self) -> Tensor:
        """The changed parameter, float64, of the same shape."""
        return self.weight.double() + self.matrix.reshape(self.weight.shape)


def edited_tensors(
    eraser: Eraser, model: Model, part: str, edited: set[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a part with the eraser's edits, in the model's type, one after the other.

    Args:
        eraser: The eraser.
        model: Its model.
        part: `denoiser`, `vae` or a text encoder.
        edited: Receives the full names of the parameters that are edited.

    Yields:
        Names and tensors, of any shape, such as (d_out, d_in).

    Raises:
        BadInput: The part has another shape than the eraser's, or a number is too large for the type.
    """
    edits, operators = _edits(eraser, model)
    of_part = edits.get(part, {})
    missing = set(of_part)
    for name, weight in model.weights(part):
        if name in of_part:
            missing.discard(name)
            change = _change(part, name, weight.cpu(), of_part[name], operators.get(name))
            weight = change.edited
            if edited is not None:
                edited.add(f"{part}.{name}")
        yield name, converted(name, weight, model.dtype)
    _check_none(missing, part)


def parameter_changes(eraser: Eraser, model: Model) -> Iterator[ParameterChange]:
    """The changes of all parameters that an eraser edits, one after the other.

    Raises:
        BadInput: The model lacks a parameter, or has it with another shape.
    """
    edits, operators = _edits(eraser, model)
    for part, of_name in edits.items():
        missing = set(of_name)
        for name, weight in model.weights(part, of_name):
            missing.discard(name)
            yield _change(part, name, weight.cpu(), of_name[name], operators.get(name))
        _check_none(missing, part)


def _check_none(missing: set[str], part: str) -> None:
    if missing:
        raise BadInput(f"The model has no parameter {part}.{min(missing)}; the eraser is for another model.")


def _edits(eraser: Eraser, model: Model) -> tuple[Mapping[str, Mapping[str, list[WeightEdit]]], Mapping[str, TextEdit]]:
    """The weight edits by part and parameter, with every parameter that is edited; the text edits by parameter."""
    of_part: dict[str, dict[str, list[WeightEdit]]] = {}
    for edit in eraser.edits:
        if isinstance(edit, WeightEdit):
            part, _, name = edit.parameter.partition(".")
            of_part.setdefault(part, {}).setdefault(name, []).append(edit)
    operators = {
        name: operator
        for stream, operator in by_stream(eraser.edits).items()
        for name in model.reading(stream).text_parameters()
    }
    for name in operators:
        of_part.setdefault("denoiser", {}).setdefault(name, [])
    return of_part, operators


def _change(
    part: str, name: str, weight: Tensor, edits: list[WeightEdit], operator: TextEdit | None
) -> ParameterChange:
    if not all(edit.fits(weight.shape) for edit in edits):
        raise BadInput(f"{part}.{name} is {tuple(weight.shape)} in the model; the eraser is for another shape.")
    matrix = weight.double().reshape(len(weight), -1)
    dense = [edit.delta.reshape(matrix.shape).double() for edit in edits if edit.delta is not None]
    ups = [edit.up.double() for edit in edits if edit.up is not None]
    downs = [edit.down.double() for edit in edits if edit.down is not None]
    if operator is not None:
        total = matrix + sum(dense) + sum(up @ down for up, down in zip(ups, downs, strict=True))
        ups.append(total @ operator.left)
        downs.append(operator.right.T)
    return ParameterChange(
        part,
        name,
        weight,
        up=torch.cat(ups, 1) if ups else None,
        down=torch.cat(downs) if downs else None,
        rest=torch.stack(dense).sum(0) if dense else None,
    )
