"""OCE, orthogonal concept erasure: each value map is rotated, so that its norms and angles do not change.

    E   = orthonormal basis of the values W c_i / |W c_i|,   E_g likewise of the guides',   G = E E^T,   G_g = E_g E_g^T
    M   = -a G (I - G_g) + b sum_p (W p)(W p)^T + b_g W C_g W^T + lamb W W^T           (tokens as columns)
    Q   = U V^T of the SVD of M: the orthogonal matrix nearest to M,   W' = Q W

C_g is the second moment of all tokens, start and end included, of general prompts. The reference uses captions of COCO;
here they are the prompts of `everyday` and the preserved prompts. The range of M is the range of W, so Q is computed
there: if W has more rows than columns, the SVD of the full M does not determine Q outside of it.

Paper: https://arxiv.org/abs/2605.28902 (ICML 2026). Reference: https://github.com/HansSunY/OCE (no licence: this is
written from the formula). Deviations:
- The script reverses the last coordinate axis if det Q < 0, that is, for every odd number of concepts. The result is
  not the nearest rotation. It is also unnecessary, since any orthogonal Q preserves norms and angles: not done here.
- The defaults of its arguments (a 1, b 0.3, b_g 0.5, lamb 1.5) are far from the values that its scripts set for each
  kind. The values of the scripts are the defaults here, and `expand_prompts`, which all of them set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.base import CannotCombine, Method
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.closed_form.ridge import check_finite
from efface.methods.closed_form.tokens import BATCH, token_pairs, value_weights
from efface.models.model import Model
from efface.models.text.embedded import Embedded
from efface.request.record import Kind, Request
from efface.settings import Settings

_Published = dict[str, float]
_OBJECT: _Published = {
    "erase_scale": 2000,
    "preserve_global_scale": 10,
    "preserve_concept_scale": 0,
    "lamb": 10,
}
PUBLISHED: dict[Kind, _Published] = {
    "object": _OBJECT,
    "memorised": _OBJECT,
    "style": {"erase_scale": 500, "preserve_global_scale": 10, "preserve_concept_scale": 1, "lamb": 10},
    "unsafe": {"erase_scale": 3000, "preserve_global_scale": 20, "preserve_concept_scale": 0, "lamb": 10},
}


class OceConfig(Settings):
    """OCE's settings, by the reference's names; None is the script's value for the kind of the first concept.

    Attributes:
        erase_scale: The weight a of the concepts; 2000 for objects, 500 for styles, 3000 for unsafe themes.
        preserve_concept_scale: The weight b of each preserved prompt; 0, 1 and 0. At 0 it counts as a general prompt.
        preserve_global_scale: The weight b_g of general prompts; 10, 10 and 20.
        lamb: The weight of W W^T; 10.
        expand_prompts: Whether to edit the concept in five templates as well.
    """

    erase_scale: float | None = Field(default=None, gt=0)
    preserve_concept_scale: float | None = Field(default=None, ge=0)
    preserve_global_scale: float | None = Field(default=None, ge=0)
    lamb: float | None = Field(default=None, ge=0)
    expand_prompts: bool = True


def erase(model: Model, request: Request, config: OceConfig) -> Solution:
    """Rotate every value map. The weights are read one after the other.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.

    Raises:
        BadInput: A weight or an embedding is not finite.
    """
    given = {name: value for name, value in config.model_dump().items() if value is not None}
    settings: dict[str, Any] = {**PUBLISHED[request.concepts[0].kind], **given}
    pairs = token_pairs(model, request, expand=config.expand_prompts)
    preserved, general = _moments(model, request)
    check_finite(pairs.edited, pairs.guides, preserved, general)
    text = settings["preserve_concept_scale"] * preserved + settings["preserve_global_scale"] * general
    text += settings["lamb"] * torch.eye(model.width, dtype=torch.float64)
    started = time.perf_counter()
    edits = tuple(
        WeightEdit(f"denoiser.{name}", delta=turn(weight, pairs.edited, pairs.guides, text, settings))
        for name, weight in value_weights(model)
    )
    return Solution(request, edits, {}, {"settings": settings}, pairs.embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """Not possible: the solutions store no inputs from which a rotation could be solved again.

    Raises:
        CannotCombine: Always. The sum of two rotations' changes is not the change of a rotation.
    """
    raise CannotCombine(
        "the sum of two rotations is no rotation, and norms and angles change; to preserve these, erase all concepts "
        "in one request"
    )


def turn(weight: Tensor, edited: Tensor, guides: Tensor, text: Tensor, settings: dict[str, Any]) -> Tensor:
    """(Q - I) W for one weight.

    Args:
        weight: The weight W, (d_out, d), float64.
        edited: The edited tokens C^T, (n, d).
        guides: Their guides G^T, (n, d).
        text: The matrix b sum p p^T + b_g C_g + lamb I, (d, d).
        settings: The settings, of which `erase_scale` is read.

    Returns:
        The change, (d_out, d).

    Raises:
        BadInput: The weight is not finite.
    """
    if not weight.isfinite().all():
        raise BadInput("The model's weights are not finite, so no eraser can be computed.")
    basis, singular, rows = torch.linalg.svd(weight, full_matrices=False)
    real = singular > 1e-12 * singular.max()
    basis, inside = basis[:, real], singular[real, None] * rows[real]  # W = basis @ inside
    concept, guide = _basis(edited @ inside.T), _basis(guides @ inside.T)
    projected = concept @ (concept.T - (concept.T @ guide) @ guide.T)
    matrix = inside @ text @ inside.T - settings["erase_scale"] * projected
    left, _, right = torch.linalg.svd(matrix)
    return basis @ (left @ right @ inside - inside)


def _basis(values: Tensor) -> Tensor:
    """An orthonormal basis (r, at most n) of values (n, r), which are scaled to the same length first."""
    units = values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)
    left, singular, _ = torch.linalg.svd(units.T, full_matrices=False)
    return left[:, singular > 1e-9]


def _moments(model: Model, request: Request) -> tuple[Tensor, Tensor]:
    """sum p p^T over the preserved prompts' last subject tokens, and C_g; both (d, d), float64."""
    preserved = torch.zeros(model.width, model.width, dtype=torch.float64)
    general, count = torch.zeros_like(preserved), 0
    for embedded in _embedded(model, request.preserve, request.clip_skip):
        chosen = embedded.last_tokens.double()
        preserved += chosen.T @ chosen
        general, count = _added(embedded, general, count)
    # A tokenizer that takes few tokens need not take all of the built-in prompts.
    for embedded in _embedded(model, EVERYDAY, request.clip_skip, truncate=True):
        general, count = _added(embedded, general, count)
    return preserved, general / count


def _embedded(
    model: Model, prompts: Sequence[str], clip_skip: int | None, truncate: bool = False
) -> Iterator[Embedded]:
    """The prompts, embedded in batches."""
    for first in range(0, len(prompts), BATCH):
        yield model.embed(prompts[first : first + BATCH], clip_skip=clip_skip, truncate=truncate)


def _added(embedded: Embedded, moment: Tensor, count: int) -> tuple[Tensor, int]:
    """The sum of t t^T over tokens, (d, d), and their number, with those of these prompts, start and end included."""
    for part in embedded.sequences:
        real = torch.arange(part.tokens.shape[1]) <= part.last[:, None] + 1
        tokens = part.tokens[real].double()
        moment, count = moment + tokens.T @ tokens, count + len(tokens)
    return moment, count


ENTRY = Method(
    name="oce",
    summary="Rotates every value map away from a concept's values; its norms and angles stay the same.",
    paper="https://arxiv.org/abs/2605.28902",
    repository="https://github.com/HansSunY/OCE",
    edit="weight",
    config=OceConfig,
    erase=erase,
    combine=combine,
)
