"""The kinds of edit an eraser is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface.errors import BadFile
from efface.settings import Scalar


@dataclass(frozen=True, eq=False)
class TextEdit:
    """An operator of low rank on one stream of text embeddings: e -> e + L (R^T e).

    In a linear map W that reads the text it is W (I + L R^T), the same for every layer.

    Attributes:
        left: L, (d, r).
        right: R, (d, r).
        stream: which of the model's text streams it edits.
    """

    left: Tensor
    right: Tensor
    stream: str = "text"

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.left.shape != self.right.shape:
            raise BadFile(
                f"A text edit needs two factors of one shape (d, r), not {tuple(self.left.shape)} "
                f"and {tuple(self.right.shape)}."
            )

    @property
    def dim(self) -> int:
        """Width d of the embeddings it edits."""
        return self.left.shape[0]

    @property
    def rank(self) -> int:
        """Number of columns r of its factors, which bounds the rank of the change."""
        return self.left.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of both factors."""
        return self.left.nbytes + self.right.nbytes

    @cached_property
    def matrix(self) -> Tensor:
        """L R^T, (d, d)."""
        return self.left @ self.right.T

    @cached_property
    def narrow(self) -> tuple[Tensor, Tensor]:
        """L and R in float32, as copies in one order of memory, made once; not to be written to."""
        return torch.empty(self.left.shape).copy_(self.left), torch.empty(self.right.shape).copy_(self.right)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Edit embeddings (..., d); computed in the factors' precision, returned in the embeddings' own."""
        wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        left, right = self.left.to(wide), self.right.to(wide)
        return (wide + (wide @ right) @ left.T).to(embeddings.dtype)

    def on(self, weight: Tensor) -> Tensor:
        """W (I + L R^T) for a weight (d_out, d), in the weight's type; the change is summed in float32 or wider."""
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        left, right = self.left.to(wide), self.right.to(wide)
        change = wide @ left @ right.T if 2 * self.rank < self.dim else wide @ self.matrix.to(wide)
        return (wide + change).to(weight.dtype)

    def scaled(self, strength: float) -> "TextEdit":
        """The same edit, `strength` times as far."""
        return replace(self, left=self.left * strength)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field name."""
        return {"left": self.left, "right": self.right}


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """A change of one parameter: `delta`, or `up @ down` reshaped to the parameter.

    Attributes:
        parameter: its full name, led by the part of the model that has it ("denoiser.mid_block...").
        up: (d_out, r), with `down`.
        down: (r, d_in), with `up`.
        delta: the parameter's own shape, instead of `up` and `down`.
    """

    parameter: str
    up: Tensor | None = None
    down: Tensor | None = None
    delta: Tensor | None = None

    def __post_init__(self) -> None:
        low_rank = self.up is not None and self.down is not None
        if low_rank == (self.delta is not None) or (self.up is None) != (self.down is None):
            raise BadFile(f"The edit of {self.parameter} needs either a delta, or both an up and a down factor.")

    @property
    def rank(self) -> int:
        """Columns of the factors, or the smaller side of a dense delta seen as a matrix."""
        if self.up is not None:
            return self.up.shape[1]
        assert self.delta is not None
        return min(self.delta.reshape(self.delta.shape[0], -1).shape)

    @property
    def nbytes(self) -> int:
        """Size of what is stored."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether it is a change of a parameter of this shape."""
        if self.delta is not None:
            return self.delta.shape == shape
        assert self.up is not None
        assert self.down is not None
        return len(self.up) == shape[0] and self.down.shape[1] == math.prod(shape[1:])

    def value(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """The change, in the shape of its parameter."""
        if self.delta is not None:
            return self.delta.reshape(shape)
        assert self.up is not None
        assert self.down is not None
        return (self.up @ self.down).reshape(shape)

    def on(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """The edited parameter, in its own type; summed in float32 or wider."""
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (wide + strength * self.value(weight.shape).to(wide)).to(weight.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field name."""
        fields = {"up": self.up, "down": self.down, "delta": self.delta}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class ValueGuard:
    """Something done while the model runs, that changes no weight: the tensors and settings of a guard, by its name.

    Attributes:
        guard: which of `efface.apply.guard.GUARDS` does it.
        values: its tensors.
        settings: its settings.
    """

    guard: str
    values: Mapping[str, Tensor]
    settings: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])

    @property
    def rank(self) -> int:
        """0: it is no change of a linear map."""
        return 0

    @property
    def nbytes(self) -> int:
        """Size of its tensors."""
        return sum(tensor.nbytes for tensor in self.values.values())

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return dict(self.values)


Edit = TextEdit | WeightEdit | ValueGuard


def edit_from(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    """The edit that a file's header describes, from its tensors by field name."""
    kind = description.get("edit")
    try:
        if kind == "text":
            return TextEdit(tensors["left"], tensors["right"], description["stream"])
        if kind == "weight":
            return WeightEdit(description["parameter"], **tensors)
        if kind == "guard":
            return ValueGuard(description["guard"], dict(tensors), dict(description["settings"]))
    except (KeyError, TypeError) as error:
        raise BadFile(f"An edit in the eraser file is incomplete ({error}).") from error
    raise BadFile(f"The eraser file holds an edit of the unknown kind '{kind}'; a newer efface may read it.")


def describe(edit: Edit) -> dict[str, Any]:
    """What a file's header says of an edit, beside its tensors."""
    if isinstance(edit, TextEdit):
        return {"edit": "text", "stream": edit.stream}
    if isinstance(edit, ValueGuard):
        return {"edit": "guard", "guard": edit.guard, "settings": dict(edit.settings)}
    return {"edit": "weight", "parameter": edit.parameter}
