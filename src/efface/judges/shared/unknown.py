"""The error of a question that a judge cannot answer."""

from __future__ import annotations

from efface.errors import BadInput
from efface.judges.base import HasWorld, Judge
from efface.models.world_names import nearest_in_world


def unrecognised(judge: Judge, concept: str, fix: str) -> BadInput:
    """The error, with the names of the judge's world that are spelt most like the concept.

    Args:
        judge: The judge.
        concept: The concept that it does not know.
        fix: What the user can do.
    """
    nearest = nearest_in_world(judge.world, concept) if isinstance(judge, HasWorld) else []
    hint = f" (nearest: {', '.join(nearest)})" if nearest else ""
    return BadInput(f"The judge '{judge.name}' cannot recognise '{concept}'{hint}; {fix}.")
