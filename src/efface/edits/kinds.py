"""The kinds of edit that an eraser consists of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from efface.errors import BadFile
from efface.files import sha256_of_tensors
from efface.settings import Scalar

KindOfEdit = Literal["text", "weight", "guard"]


def _check_floating(what: str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadFile(f"{what} needs real numbers, but {name} has the type {tensor.dtype}.")


@dataclass(frozen=True, eq=False)
class TextEdit:
    """An operator of low rank on one stream of text embeddings: e -> e + L (R^T e).

    In a linear map W that reads the text it is W (I + L R^T), the same for every layer.

    Attributes:
        left: L, (d, r).
        right: R, (d, r).
        stream: The text stream of the model that it edits.
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
        _check_floating("A text edit", self.tensors())

    @property
    def dim(self) -> int:
        """The width d of the embeddings that it edits."""
        return self.left.shape[0]

    @property
    def rank(self) -> int:
        """The number of columns r of its factors, which bounds the rank of the change."""
        return self.left.shape[1]

    @property
    def nbytes(self) -> int:
        """The size of both factors in bytes."""
        return self.left.nbytes + self.right.nbytes

    @cached_property
    def matrix(self) -> Tensor:
        """L R^T, (d, d)."""
        return self.left @ self.right.T

    @cached_property
    def factors_float32(self) -> tuple[Tensor, Tensor]:
        """L and R, (d, r), in float32; shared by all attachments, so they must not be changed.

        The memory layout is fixed, so that a fresh and a loaded eraser give identical bits.
        """
        return torch.empty(self.left.shape).copy_(self.left), torch.empty(self.right.shape).copy_(self.right)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The edited embeddings, (..., d), in their own dtype; computed in float32 or wider."""
        text = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        left, right = self.left.to(text), self.right.to(text)
        return (text + (text @ right) @ left.T).to(embeddings.dtype)

    def on(self, weight: Tensor) -> Tensor:
        """W (I + L R^T) for a weight (d_out, d), in its own dtype; computed in float32 or wider."""
        W = weight.to(torch.promote_types(weight.dtype, torch.float32))
        left, right = self.left.to(W), self.right.to(W)
        change = W @ left @ right.T if 2 * self.rank < self.dim else W @ self.matrix.to(W)
        return (W + change).to(weight.dtype)

    def scaled(self, strength: float) -> TextEdit:
        """The edit with its change multiplied by `strength`."""
        return replace(self, left=self.left * strength)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field name, in the shapes of the fields."""
        return {"left": self.left, "right": self.right}


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """A change of one parameter: `delta`, or `up @ down` reshaped to the parameter.

    Attributes:
        parameter: Its full name, which begins with the part of the model that has it ("denoiser.mid_block...").
        up: (d_out, r), with `down`.
        down: (r, d_in), with `up`.
        delta: A dense change in the parameter's shape, instead of `up` and `down`.

    Raises:
        BadFile: Neither or both of the two forms are given, or a tensor has another type or shape.
    """

    parameter: str
    up: Tensor | None = None
    down: Tensor | None = None
    delta: Tensor | None = None

    def __post_init__(self) -> None:
        low_rank = self.up is not None and self.down is not None
        if low_rank == (self.delta is not None) or (self.up is None) != (self.down is None):
            raise BadFile(f"The edit of {self.parameter} needs either a delta, or both an up and a down factor.")
        what = f"The edit of {self.parameter}"
        _check_floating(what, self.tensors())
        if self.up is not None and self.down is not None:
            if self.up.ndim != 2 or self.down.ndim != 2 or self.up.shape[1] != self.down.shape[0]:
                shapes = f"{tuple(self.up.shape)} and {tuple(self.down.shape)}"
                raise BadFile(f"{what} needs factors of the shapes (d_out, r) and (r, d_in), not {shapes}.")
        elif self.delta is not None and not (self.delta.ndim and self.delta.numel()):
            raise BadFile(f"{what} has a delta of the shape {tuple(self.delta.shape)}, which changes no parameter.")

    @property
    def rank(self) -> int:
        """The number of columns of the factors, or the smaller side of a dense delta as a matrix."""
        if self.up is not None:
            return self.up.shape[1]
        assert self.delta is not None
        return min(self.delta.reshape(self.delta.shape[0], -1).shape)

    @property
    def nbytes(self) -> int:
        """The size of what is stored, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def fits(self, shape: torch.Size | tuple[int, ...]) -> bool:
        """Whether it can change a parameter of this shape."""
        if self.delta is not None:
            return self.delta.shape == shape
        assert self.up is not None
        assert self.down is not None
        return len(self.up) == shape[0] and self.down.shape[1] == math.prod(shape[1:])

    def value(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """The change of a parameter of this shape, such as (d_out, d_in)."""
        if self.delta is not None:
            return self.delta.reshape(shape)
        assert self.up is not None
        assert self.down is not None
        return (self.up @ self.down).reshape(shape)

    def on(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """The edited weight, of any shape, in its own dtype; computed in float32 or wider."""
        W = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (W + strength * self.value(weight.shape).to(W)).to(weight.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field name, in the shapes of the fields."""
        fields = {"up": self.up, "down": self.down, "delta": self.delta}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class GuardEdit:
    """A guard: an edit that acts while the model runs and changes no weight.

    Attributes:
        guard: The guard's name in `efface.apply.guard.GUARDS`.
        values: Its tensors by name; their shapes are documented with the guard.
        settings: Its settings.
    """

    guard: str
    values: Mapping[str, Tensor]
    settings: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])

    @property
    def rank(self) -> int:
        """0: it is not a change of a linear map."""
        return 0

    @property
    def nbytes(self) -> int:
        """The size of its tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.values.values())

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, in the shapes that the guard documents."""
        return dict(self.values)


Edit = TextEdit | WeightEdit | GuardEdit


def kind_of(edits: Sequence[Edit]) -> KindOfEdit:
    """`text` if all edits act on text embeddings, `guard` if one acts only while the model runs, else `weight`."""
    if any(isinstance(edit, GuardEdit) for edit in edits):
        return "guard"
    return "text" if all(isinstance(edit, TextEdit) for edit in edits) else "weight"


def hash_of(edits: Sequence[Edit]) -> str:
    """SHA-256 of edits: equal for edits that change a model in the same way."""
    # The order of edits of one thing matters; the order of edits of different things does not.
    named: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for edit in edits:
        description = str(describe(edit))
        named |= {f"{counts[description]}:{description}:{name}": tensor for name, tensor in edit.tensors().items()}
        counts[description] += 1
    return sha256_of_tensors(named)


def edit_from(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    """The edit that a file's header describes, from its tensors by field name, in the shapes of the fields.

    Raises:
        BadFile: The description is incomplete, or of an unknown kind.
    """
    kind = description.get("edit")
    try:
        if kind == "text":
            return TextEdit(tensors["left"], tensors["right"], description["stream"])
        if kind == "weight":
            return WeightEdit(description["parameter"], **tensors)
        if kind == "guard":
            return GuardEdit(description["guard"], dict(tensors), dict(description["settings"]))
    except (KeyError, TypeError) as error:
        raise BadFile(f"An edit in the eraser file is incomplete ({error}).") from error
    raise BadFile(f"The eraser file holds an edit of the unknown kind '{kind}'; a newer efface may read it.")


def describe(edit: Edit) -> dict[str, Any]:
    """The description of an edit in a file's header, which does not include its tensors."""
    if isinstance(edit, TextEdit):
        return {"edit": "text", "stream": edit.stream}
    if isinstance(edit, GuardEdit):
        return {"edit": "guard", "guard": edit.guard, "settings": dict(edit.settings)}
    return {"edit": "weight", "parameter": edit.parameter}
