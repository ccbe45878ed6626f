"""Warnings about the words of a request: names outside a model's closed world, and guides that are also preserved."""

from __future__ import annotations

import warnings

from efface.models.model import Model
from efface.models.world_names import unknown_concepts, unknown_names
from efface.request.names import name_key
from efface.request.record import Request

_SHOWN = 5


def warn_of_words(model: Model, request: Request, stacklevel: int = 3) -> None:
    """Warn about names that the model's world does not have, and about preserved prompts that equal a guide.

    Args:
        model: The model. Only a model with a closed world has a list of its names.
        request: The request, as the user wrote it.
        stacklevel: As for `warnings.warn`.
    """
    guides = {name_key(concept.guide): concept.guide for concept in request.concepts if concept.guide}
    both = [prompt for prompt in request.preserve if name_key(prompt) in guides]
    if both:
        warnings.warn(f"The guide is also preserved, which has no effect: {_listed(both)}.", stacklevel=stacklevel)
    if model.world is None:
        return
    styles = [concept.name for concept in request.concepts if concept.kind == "style"]
    others = [concept.name for concept in request.concepts if concept.kind not in ("style", "memorised")]
    texts = [
        *(concept.guide or "" for concept in request.concepts),
        *(a for c in request.concepts for a in c.attributes),
    ]
    for kind, unknown in (
        ("", unknown_concepts(model.world, others) | unknown_concepts(model.world, styles, styles=True)),
        ("guide ", unknown_names(model.world, list(dict.fromkeys(texts)))),
        ("preserved ", unknown_names(model.world, list(request.preserve))),
    ):
        if unknown:
            shown = [f"'{name}'{_nearest(nearest)}" for name, nearest in list(unknown.items())[:_SHOWN]]
            more = f", and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            names = "name" if len(unknown) == 1 else "names"
            warnings.warn(
                f"{model.name} was not trained on {'this' if len(unknown) == 1 else 'these'} {kind}{names}, so that "
                f"images show something else: {', '.join(shown)}{more}. Its names: efface inspect {model.name}.",
                stacklevel=stacklevel,
            )


def _nearest(names: list[str]) -> str:
    return f" (nearest: {', '.join(names)})" if names else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
