"""How many concepts fit a text edit, and the warning beyond that number.

An edit e -> e + L R^T e can map at most d independent tokens to their guides, with d the text width, and each one takes
a direction that no longer distinguishes other words. Up to half of d, the other half remains for everything else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from efface.edits.kinds import Edit, TextEdit
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.closed_form.tokens import prompt_pairs
from efface.models.model import Model
from efface.request.record import Request


def warn_beyond_capacity(model: Model, request: Request, edits: Sequence[Edit], uses_guides: bool) -> None:
    """Warn if a request has more concepts than fit the text encoder, with the worst errors of its text edits.

    Args:
        model: The model, for the stream that the edits act on.
        request: The request.
        edits: The edits that were solved for it.
        uses_guides: Whether the method moves concepts to guides.
    """
    fitting = model.width // 2
    operators = [edit for edit in edits if isinstance(edit, TextEdit)]
    if len(request.concepts) <= fitting or not operators or request.goal != "erase":
        return
    pairs = [prompt_pairs(concept, False)[0] for concept in request.concepts]
    concepts, guides = (_last_tokens(model, [pair[side] for pair in pairs], request) for side in (0, 1))
    words = _last_tokens(model, EVERYDAY, request, truncate=True)
    moved, shifted = concepts, words
    for operator in operators:
        moved, shifted = operator(moved), operator(shifted)
    missed = ((moved - guides).norm(dim=1) / (concepts - guides).norm(dim=1).clamp(min=1e-12)).max()
    shift = ((shifted - words).norm(dim=1) / words.norm(dim=1)).max()
    left = f"the worst concept is left at {float(missed):.0%} of its distance to the guide, and " if uses_guides else ""
    warnings.warn(
        f"About {fitting} concepts fit the {model.width} dimensions of this text encoder, and the request has "
        f"{len(pairs)}: {left}the worst of {len(EVERYDAY)} everyday prompts moves by {float(shift):.0%} of its norm. "
        "Split the concepts over several erasers that are not used together, or use a method that trains.",
        stacklevel=5,
    )


def _last_tokens(model: Model, prompts: Sequence[str], request: Request, truncate: bool = False) -> Tensor:
    """The last subject tokens, (n, d), float64."""
    return model.last_tokens(prompts, clip_skip=request.clip_skip, truncate=truncate).double()
