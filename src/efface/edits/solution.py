"""The result of a method: edits of one text stream, and what solving them again needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from efface.edits.kinds import Edit
from efface.request.record import Request

if TYPE_CHECKING:
    from torch import Tensor

    from efface.models.text.embedded import Embedded


@dataclass(frozen=True, eq=False)
class Solution:
    """What a method solved for the concepts of one request in one text stream of a model.

    Attributes:
        request: The concepts that the edits erase.
        edits: The edits.
        inputs: Tensors from which the method can solve again for fewer or more concepts, without the model.
        notes: JSON values for the eraser's provenance: `settings` with every default resolved, and what the method
            reports besides. In a part of an eraser, its whole provenance.
        embedded: The edited prompts, by whose embeddings an eraser recognises its base; None in a part of an eraser.
        solve_seconds: The share of the time that solving took; the rest was embedding.
    """

    request: Request
    edits: tuple[Edit, ...]
    inputs: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    embedded: Embedded | None = None
    solve_seconds: float = 0.0

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the erased concepts."""
        return self.request.names

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's settings, with every default resolved."""
        return self.notes["settings"]
