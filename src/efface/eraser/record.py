"""The record of an eraser: what was solved, for which base model, and what restoring needs. It only holds data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from efface.edits.kinds import Edit, KindOfEdit, TextEdit, hash_of, kind_of
from efface.errors import BadInput
from efface.files import sha256_of_tensors
from efface.models.model import TEXT
from efface.request.record import Request

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Base:
    """The model that an eraser was made for, recognised by how its text encoder embeds a few prompts.

    Attributes:
        model: The name or path that it was opened by.
        family: Its family.
        hash: SHA-256 of its text encoder's weights, for information.
        probes: The prompts.
        embeddings: The last subject token of each of n probes, (n, d); with k text encoders (n k, d), prompt after
            prompt. Empty for an eraser that edits no text.
        parameters: For each parameter that a weight edit changes, its SHA-256 by the type it was rounded to (see
            `efface.eraser.base_check`).
        streams: As `embeddings`, for the model's other text streams where they are edited.
    """

    model: str
    family: str
    hash: str
    probes: tuple[str, ...]
    embeddings: Tensor
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    streams: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])

    @property
    def of_streams(self) -> dict[str, Tensor]:
        """The embeddings of the probes by text stream, (n k, d) each."""
        return {TEXT: self.embeddings, **self.streams}

    def rows(self, stream: str) -> dict[str, Tensor]:
        """The embeddings of each probe in one stream, (k, d); empty for an unknown stream."""
        tokens = self.of_streams.get(stream)
        if tokens is None or not self.probes:
            return {}
        return dict(zip(self.probes, tokens.unflatten(0, (len(self.probes), -1)), strict=True))

    @cached_property
    def key(self) -> str:
        """SHA-256 of the probes and their embeddings: bases with equal keys need one check only."""
        return sha256_of_tensors({"\0".join((stream, *self.probes)): rows for stream, rows in self.of_streams.items()})


@dataclass(frozen=True, eq=False)
class EraserRecord:
    """An eraser as data. `efface.Eraser` adds the verbs.

    Attributes:
        request: The request that it answers.
        edits: The edits, in the order in which they are applied.
        base: The model that it was made for.
        inputs: Tensors from which its method can solve again, float64.
        provenance: Versions, resolved settings, seconds, and what the method reports.
        parts: The erasers that it is composed of, if they could not be solved as one; its edits are theirs, in order.

    Raises:
        BadInput: A tensor is not finite.
    """

    request: Request
    edits: tuple[Edit, ...]
    base: Base
    inputs: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parts: tuple[EraserRecord, ...] = ()

    def __post_init__(self) -> None:
        tensors = [tensor for edit in self.edits for tensor in edit.tensors().values()]
        tensors += [*self.inputs.values(), *self.base.of_streams.values()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise BadInput(
                f"The result of {self.method} is not finite, so no eraser is made; the model's weights are damaged, or "
                "the settings cause an overflow."
            )

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the erased concepts."""
        return self.request.names

    @property
    def method(self) -> str:
        """The name of the method that made it."""
        return self.request.method

    @property
    def kind_of_edit(self) -> KindOfEdit:
        """`text` if all edits act on text embeddings, `guard` if one acts only while the model runs, else `weight`."""
        return kind_of(self.edits)

    @property
    def edits_text(self) -> bool:
        """Whether one of the edits acts on text embeddings."""
        return any(isinstance(edit, TextEdit) for edit in self.edits)

    @property
    def rank(self) -> int:
        """The largest rank among the edits."""
        return max((edit.rank for edit in self.edits), default=0)

    @property
    def nbytes(self) -> int:
        """The size of the edits alone, without what restoring needs."""
        return sum(edit.nbytes for edit in self.edits)

    @property
    def certificate(self) -> dict[str, dict[str, float | None]] | None:
        """For each concept, `free`, `text` and `ceiling` of `efface.eraser.certificate`; None if not certified."""
        return self.provenance.get("certificate", {}).get("concepts")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the edits: equal for erasers that change a model in the same way."""
        return hash_of(self.edits)
