"""Restoring concepts: the eraser of the remaining ones, as if the restored ones had never been erased.

It is solved again from what the eraser stored. Where the model's weights took part in solving, or nothing was stored, a
method that needs no tools solves anew on the model, with the result that it would have had at first.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from efface.eraser.base_check import check_base
from efface.eraser.certificate import certify_again, uncertified
from efface.eraser.compatible import names_of
from efface.eraser.compose import side_by_side
from efface.eraser.recommended import sources_of
from efface.eraser.solve import solve_request
from efface.eraser.streams import join, split
from efface.errors import BadRequest, NeedsModel
from efface.methods import METHODS
from efface.methods.base import CannotCombine
from efface.models.open import open_model
from efface.parsing import library_errors
from efface.request.record import folded

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.record import EraserRecord
    from efface.models.model import Model


def only_concepts(
    eraser: EraserRecord, names: Sequence[str], model: Model | DiffusionPipeline | str | None
) -> EraserRecord:
    """The eraser of some of its concepts.

    Args:
        eraser: The eraser.
        names: The concepts that stay erased.
        model: The unedited model that it was made for; needed by methods that stored too little.

    Raises:
        BadRequest: A name is not in the eraser, none is left, or its concepts were erased jointly.
        NeedsModel: The method needs the model, and none is given.
    """
    request = eraser.request.keeping(names)
    if eraser.parts:
        return _only_of_parts(eraser, request.names, model)
    method = METHODS.get(eraser.method) if eraser.method in METHODS.names() else None
    if method is not None and method.combine is not None:
        if request.names == eraser.concepts:
            return eraser
        # A certificate is of the whole operator: another choice of concepts has another one.
        parts = split(uncertified(eraser))
        try:
            with library_errors(f"What this eraser by {eraser.method} stores does not fit together", CannotCombine):
                solutions = {stream: method.combine([part], request) for stream, part in parts.items()}
                rest = join(solutions, eraser.base)
                rest = replace(rest, provenance={**rest.provenance, **sources_of([eraser], request.names)})
                return certify_again(rest, [eraser])
        except CannotCombine as reason:
            if method.needs:
                raise BadRequest(f"This eraser by {eraser.method} cannot be split: {reason}.") from None
            if model is None:
                raise NeedsModel(
                    f"This eraser by {eraser.method} cannot be split without the model, as {reason}; "
                    "give it by --model (in Python, model=)."
                ) from None
    elif method is None or method.needs:
        raise BadRequest(f"An eraser made by {eraser.method} cannot be split; erase the concepts one by one instead.")
    elif model is None:
        raise NeedsModel(
            f"An eraser made by {eraser.method} cannot be split without the model; "
            "give it by --model (in Python, model=)."
        )
    opened = open_model(model)
    check_base(eraser, opened)
    return solve_request(opened, request, notes=sources_of([eraser], request.names))


def _only_of_parts(
    eraser: EraserRecord, names: Sequence[str], model: Model | DiffusionPipeline | str | None
) -> EraserRecord:
    """Some concepts of a composed eraser: each part that has any of them, for those alone."""
    wanted = {folded(name) for name in names}
    parts: list[EraserRecord] = []
    for part in eraser.parts:
        remaining = [name for name in part.concepts if folded(name) in wanted]
        if remaining:
            parts.append(part if len(remaining) == len(part.concepts) else only_concepts(part, remaining, model))
    _warn_of_restored(parts, {name.casefold() for name in eraser.concepts} - wanted)
    return parts[0] if len(parts) == 1 else side_by_side(parts)


def _warn_of_restored(parts: Sequence[EraserRecord], restored: Collection[str]) -> None:
    """Warn of parts that were solved on a model without a concept that is restored now."""
    for part in parts:
        if part.provenance.get("solved_on") != "edited":
            continue
        missing = [name for one in part.provenance["after"] for name in one["concepts"] if name.casefold() in restored]
        if missing:
            warnings.warn(
                f"{names_of(part)} was erased on a model without '{missing[0]}', which is restored; check with "
                "efface evaluate that it is still erased.",
                stacklevel=6,
            )
