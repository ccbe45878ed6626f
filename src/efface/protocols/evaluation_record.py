"""What an evaluation is refused for, and what it says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Sampling
from efface.generation.run import Recipe
from efface.judges import Judge
from efface.models import Model
from efface.protocols.answers import safe_name
from efface.protocols.base import BASE
from efface.provenance import versions


def check_erasers(erasers: Mapping[str, Eraser]) -> None:
    """Refuse an evaluation of nothing, names that cannot be told apart, and what erases nothing.

    Raises:
        BadInput: There is no eraser, two share a name, one is called `base`, or one debiases.
    """
    if not erasers:
        raise BadInput("There is no eraser to evaluate; give at least one.")
    folders = {safe_name(name).casefold(): name for name in erasers}
    if len(folders) < len(erasers) or BASE in folders:
        raise BadInput(f"Two erasers share a name, or one is called '{BASE}'; rename the files.")
    for name, eraser in erasers.items():
        debiasing = [part for part in (eraser, *eraser.parts) if part.request.goal == "debias"]
        if debiasing:
            concept = debiasing[0].request.concepts[0]
            raise BadInput(
                f"'{name}' debiases '{concept.name}' and erases nothing, which is what protocols measure; count its "
                f"attributes with efface generate '{concept.name}' -n 100 --eraser FILE -o DIR, then efface judge DIR "
                f"-q '{next(iter(concept.attributes))}'."
            )


def reading_alike(sampling: Sampling, erasers: Mapping[str, Eraser]) -> Sampling:
    """The sampling, by which all models read the text as the erasers did, unless it says how itself.

    Raises:
        BadInput: They did not all read it alike, and the unedited model's images are the same for all.
    """
    skips = {name: eraser.request.clip_skip or None for name, eraser in erasers.items()}
    if sampling.clip_skip is not None:
        return sampling
    if len(set(skips.values())) > 1:
        told = ", ".join(f"'{name}' {skip or 'none'}" for name, skip in skips.items())
        raise BadInput(f"The erasers were made with different clip_skip ({told}); evaluate those of one together.")
    return replace(sampling, clip_skip=next(iter(skips.values())))


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
        "precision": Recipe.of(model, sampling).precision,
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
