"""What an evaluation is refused for, and what it says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from efface.eraser import Eraser
from efface.errors import BadInput
from efface.generate import Sampling
from efface.judges import Judge
from efface.models import Model
from efface.protocols.base import BASE
from efface.protocols.running import safe_name
from efface.provenance import versions


def check_erasers(erasers: Mapping[str, Eraser]) -> None:
    """Refuse an evaluation of nothing, and erasers whose names cannot be told apart.

    Raises:
        BadInput: There is none, or two share a name, or one is called `base`.
    """
    if not erasers:
        raise BadInput("There is no eraser to evaluate; give at least one.")
    folders = {safe_name(name).casefold(): name for name in erasers}
    if len(folders) < len(erasers) or BASE in folders:
        raise BadInput(f"Two erasers share a name, or one is called '{BASE}'; rename the files.")


def provenance(
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    questions: Sequence[str],
    sampling: Sampling,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """All that decides the numbers, and the versions of what computed them."""
    how = asdict(sampling)
    del how["batch_size"]  # decides nothing but the speed
    return {
        "model": {"name": model.name, "hash": model.hash},
        "erasers": {
            name: {"hash": e.hash, "method": e.method, "request": e.request.model_dump(mode="json")}
            for name, e in erasers.items()
        },
        "judge": {
            "name": judge.name,
            "version": judge.version,
            "thresholds": {q: judge.threshold(q) for q in questions},
        },
        "sampling": how,
        "n": n,
        "seed": seed,
        "versions": versions(),
    }
