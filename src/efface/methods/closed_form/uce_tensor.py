"""UCE's technique `tensor`: a concept's values become its guide's values, minus their part along the concept's values.

    u = W C / |W C|_F,   V = W G - <u, W G>_F u,   W' = W + a (V - W C) C^T A^-1          (tokens as columns)

The Frobenius norm and product run over the whole window of one prompt, and A is as in `ridge`. The projection depends
on the layer, so each weight has its own edit. With s = <W C, W G>_F / |W C|_F^2 for each prompt,

    W' - W = up @ down,   up = a W (G - (1 + s) C),   down = C^T A^-1

where `down` is the same for all layers and each column of `up` belongs to one edited token. So the edits of a subset of
the concepts follow from the stored tensors, without the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface.edits.kinds import Edit, WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.closed_form.ridge import check_finite
from efface.methods.closed_form.stored import first_with
from efface.methods.closed_form.tokens import Pairs
from efface.models.model import Model
from efface.request.record import Request


def tensor_edits(model: Model, pairs: Pairs, right: Tensor, erase_scale: float) -> tuple[Edit, ...]:
    """Compute the edit of every weight that reads the text.

    Args:
        model: The model. Its weights are read one after the other.
        pairs: The edited tokens and their guides.
        right: The factor A^-1 C^T, (d, n).
        erase_scale: The weight a of the edited tokens.

    Raises:
        BadInput: A weight is not finite, or zero for a whole concept.
    """
    check_finite(pairs.edited, pairs.guides)
    down = right.T.contiguous()
    edits: list[Edit] = []
    for name, weight in model.text_weights():
        matrix = weight.double().cpu()
        values, aims = pairs.edited @ matrix.T, pairs.guides @ matrix.T
        share = _by_prompt((values * aims).sum(1), pairs.prompt) / _by_prompt((values * values).sum(1), pairs.prompt)
        up = erase_scale * (aims - (1 + share)[:, None] * values).T
        if not up.isfinite().all():
            raise BadInput(f"The weights {name} are damaged: not finite, or zero for a whole concept.")
        edits.append(WeightEdit(f"denoiser.{name}", up=up.contiguous(), down=down))
    return tuple(edits)


def combined_tensor_edits(parts: Sequence[Solution], request: Request, right: Tensor) -> tuple[Edit, ...]:
    """The edits of the request's concepts, from those of several solutions.

    Args:
        parts: Solutions whose edits `tensor_edits` made.
        request: The concepts: each one's columns of `up` are taken from the first part that has it.
        right: A^-1 C^T for the tokens of these concepts, (d, n).
    """
    down = right.T.contiguous()
    chosen = [(first_with(concept, parts), concept) for concept in request.names]
    columns = [part.inputs["owner"] == part.concepts.index(concept) for part, concept in chosen]
    edits: list[Edit] = []
    for of_weight in zip(*(part.edits for part, _ in chosen), strict=True):
        weight = [edit for edit in of_weight if isinstance(edit, WeightEdit)]
        up = torch.cat([edit.up[:, of] for edit, of in zip(weight, columns, strict=True) if edit.up is not None], 1)
        edits.append(WeightEdit(weight[0].parameter, up=up.contiguous(), down=down))
    return tuple(edits)


def _by_prompt(of_tokens: Tensor, prompt: Tensor) -> Tensor:
    """Sums over each prompt's tokens, (n,), repeated for each of them."""
    sums = torch.zeros(int(prompt.max()) + 1, dtype=of_tokens.dtype).index_add_(0, prompt, of_tokens)
    return sums[prompt]
