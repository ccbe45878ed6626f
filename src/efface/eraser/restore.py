"""Giving concepts back: the eraser of those that are left, as if the others had never been asked for.

It is solved again from what the eraser stored. Where the model's weights played a part in solving, or nothing was
stored, a method that only solves does it anew on the model, and finds what it would have found at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efface.eraser.base import check_base
from efface.eraser.certificate import certify_again, certify_if_quick, uncertified
from efface.eraser.compose import only_of_parts
from efface.eraser.solve import solve
from efface.eraser.streams import joined, split
from efface.errors import BadRequest, NeedsModel
from efface.methods import METHODS
from efface.models import Model, open_model

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser.eraser import Eraser


def only(eraser: Eraser, names: Sequence[str], model: Model | DiffusionPipeline | str | None) -> Eraser:
    """The eraser of some of its concepts (see `Eraser.only`)."""
    if eraser.parts:
        return only_of_parts(eraser, names, model)
    method = METHODS.get(eraser.method) if eraser.method in METHODS.names() else None
    if method is not None and method.only is not None:
        # A certificate is of the whole operator: another choice of concepts has another one.
        parts = split(uncertified(eraser))
        try:
            rest = joined({stream: method.only(part, names) for stream, part in parts.items()})
            return certify_again(rest, [eraser])
        except NeedsModel:
            if model is None:
                raise
    elif method is None or method.needs:
        raise BadRequest(f"An eraser made by {eraser.method} cannot be split; erase the concepts one by one instead.")
    elif model is None:
        raise NeedsModel(
            f"An eraser made by {eraser.method} cannot be split without the model; "
            "give it by --model (in Python, model=)."
        )
    request = eraser.request.keeping(names)
    opened = model if isinstance(model, Model) else open_model(model)
    check_base(eraser, opened)
    return certify_if_quick(opened, solve(opened, request))
