"""An eraser as changes of single parameters, streamed: whole weights, or low-rank factors of what is added to them.

An edit of the text is W (I + L R^T) in every W that reads it, so what is added is (W L) R^T, of the edit's rank. With
changes of weights beside it, W becomes (W + A) (I + L R^T): what is added is A + (W + A) L R^T. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.edits.composition import by_stream
from efface.edits.kinds import TextEdit, WeightEdit
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to one parameter.

    Attributes:
        part: the part of the model that has it ("denoiser").
        name: its name there.
        weight: what it was.
        up: (d_out, r), float64; None if the change is not known to be of low rank.
        down: (r, all other dimensions), float64; so too.
        rest: all that has no such factors, (d_out, all other dimensions), float64.
    """

    part: str
    name: str
    weight: Tensor
    up: Tensor | None
    down: Tensor | None
    rest: Tensor | None

    @property
    def matrix(self) -> Tensor:
        """The whole change, (d_out, all other dimensions)."""
        total = torch.zeros_like(self.weight, dtype=torch.float64).reshape(len(self.weight), -1)
        if self.up is not None and self.down is not None:
            total = total + self.up @ self.down
        return total if self.rest is None else total + self.rest

    @property
    def edited(self) -> Tensor:
        """The parameter after the change, float64."""
        return self.weight.double() + self.matrix.reshape(self.weight.shape)


def changes(eraser: Eraser, model: Model) -> Iterator[Change]:
    """Every parameter that an eraser changes, one after the other, with what is added to it."""
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
    for part, of_name in of_part.items():
        left = set(of_name)
        for name, weight in model.weights(part, of_name):
            left.discard(name)
            yield _change(part, name, weight.cpu(), of_name[name], operators.get(name))
        if left:
            raise BadInput(f"The model has no parameter {part}.{min(left)}; the eraser is for another one.")


def _change(part: str, name: str, weight: Tensor, edits: list[WeightEdit], operator: TextEdit | None) -> Change:
    if not all(edit.fits(weight.shape) for edit in edits):
        raise BadInput(f"{part}.{name} is {tuple(weight.shape)} in the model; the eraser is for another shape.")
    wide = weight.double().reshape(len(weight), -1)
    dense = [edit.delta.reshape(wide.shape).double() for edit in edits if edit.delta is not None]
    ups = [edit.up.double() for edit in edits if edit.up is not None]
    downs = [edit.down.double() for edit in edits if edit.down is not None]
    if operator is not None:
        total = wide + sum(dense) + sum(up @ down for up, down in zip(ups, downs, strict=True))
        ups.append(total @ operator.left)
        downs.append(operator.right.T)
    return Change(
        part,
        name,
        weight,
        up=torch.cat(ups, 1) if ups else None,
        down=torch.cat(downs) if downs else None,
        rest=torch.stack(dense).sum(0) if dense else None,
    )
