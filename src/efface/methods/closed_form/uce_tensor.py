"""UCE's technique `tensor`: a concept's values become its guide's, without the part that points where they do.

    u = W C / |W C|_F,   V = W G - <u, W G>_F u,   W' = W + a (V - W C) C^T A^-1          (tokens as columns)

with the Frobenius norm and product over one prompt's whole window, and A as in `closed_form`. The projection depends on
the layer, so this is an edit of each weight: with s = <W C, W G>_F / |W C|_F^2 for each prompt,

    W' - W = up @ down,   up = a W (G - (1 + s) C),   down = C^T A^-1

where `down` is the same for all layers and each column of `up` belongs to one edited token. So an eraser is restored
from what it stores, without the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface.edits.kinds import Edit, WeightEdit
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.methods.closed_form.ridge import check_finite
from efface.methods.closed_form.stored import first_with
from efface.methods.closed_form.tokens import Pairs
from efface.models.model import Model
from efface.request.record import Request


def deflected(model: Model, pairs: Pairs, right: Tensor, erase_scale: float) -> tuple[Edit, ...]:
    """The edit of every weight that reads the text.

    Args:
        model: its weights are read one after the other.
        pairs: the edited tokens and their guides.
        right: A^-1 C^T, (d, n).
        erase_scale: a.
    """
    check_finite(pairs.edited, pairs.guides)
    down = right.T.contiguous()
    edits: list[Edit] = []
    for name, weight in model.text_weights():
        wide = weight.double().cpu()
        values, aims = pairs.edited @ wide.T, pairs.guides @ wide.T
        share = _by_prompt((values * aims).sum(1), pairs.prompt) / _by_prompt((values * values).sum(1), pairs.prompt)
        up = erase_scale * (aims - (1 + share)[:, None] * values).T
        if not up.isfinite().all():
            raise BadInput(f"The weights {name} are damaged: not finite, or zero for a whole concept.")
        edits.append(WeightEdit(f"denoiser.{name}", up=up.contiguous(), down=down))
    return tuple(edits)


def deflected_again(edits: Sequence[Edit], rows: Tensor, right: Tensor) -> tuple[Edit, ...]:
    """The same edits for some of the tokens, with the factor solved again for those.

    Args:
        edits: what `deflected` made.
        rows: (n,), which tokens stay.
        right: the new A^-1 C^T, (d, tokens that stay).
    """
    down = right.T.contiguous()
    return tuple(
        WeightEdit(edit.parameter, up=edit.up[:, rows].contiguous(), down=down)
        for edit in edits
        if isinstance(edit, WeightEdit) and edit.up is not None
    )


def side_by_side(erasers: Sequence[Eraser], request: Request) -> tuple[Edit, ...]:
    """The edits of several erasers with the columns of `up` in the order of `request`; `down` has to be solved anew."""
    chosen = [(first_with(concept, erasers), concept) for concept in request.names]
    own = [eraser.inputs["owner"] == eraser.concepts.index(concept) for eraser, concept in chosen]
    edits: list[Edit] = []
    for of_weight in zip(*(eraser.edits for eraser, _ in chosen), strict=True):
        weight = [edit for edit in of_weight if isinstance(edit, WeightEdit)]
        up = torch.cat([edit.up[:, rows] for edit, rows in zip(weight, own, strict=True) if edit.up is not None], 1)
        edits.append(WeightEdit(weight[0].parameter, up=up, down=up.T))
    return tuple(edits)


def _by_prompt(of_tokens: Tensor, prompt: Tensor) -> Tensor:
    """Sums over each prompt's tokens, (n,), repeated for each of them."""
    sums = torch.zeros(int(prompt.max()) + 1, dtype=of_tokens.dtype).index_add_(0, prompt, of_tokens)
    return sums[prompt]
