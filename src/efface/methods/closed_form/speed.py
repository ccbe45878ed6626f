"""SPEED: each value map is edited towards the guides within the null space of the retained tokens.

With target tokens as rows of C (n, d), their anchors (guides) A, and k concepts:

    S_tt = C^T C / k,   S_at = A^T C / k,   R = (1/N) sum r r^T = U S U^T over the refined retained tokens
    P = U_0 U_0^T, U_0 the eigenvectors of R below `threshold`
    M = (S_tt P + rho I)^-1
    W' = W + W (S_at - S_tt) P (I - M K (K^T P M K + lamb I)^-1 K^T P) M

K (d, 4) holds the start token and three centres of the empty prompt's other tokens, which do not change at all (IEC,
invariant equality constraints). The retained tokens are refined for each weight, with
dW0 = W (S_at - S_tt) (I + S_tt)^-1:
- IPF, influence-based prior filtering: only r with |dW0 r| above the mean are retained;
- DPA, directed prior augmentation: `aug_num` copies r + P_min eps of each, eps normal and P_min the projection on W's
  least right singular vector; copies with |dW0 r'| above the mean are retained too.

A short list, of at most d/2 tokens, is one that a user wrote. It is retained exactly and in every layer: IPF is off for
it, and P is also orthogonal to its tokens. `disable_filter` false or true is the reference's behaviour for any list.

P M is symmetric, so with N = P M the change is W (A - C)^T/k @ C (N - N K (K^T N K + lamb I)^-1 K^T N): of rank n.

Paper: https://arxiv.org/abs/2503.07392 (ICLR 2026). Reference: https://github.com/Ouxiang-Li/SPEED
Deviations:
- Short lists, as above: with the filter, most of a few listed concepts are retained in no layer.
- Means are over all retained tokens instead of 128 (and, for copies, the copies of 128) at a time.
- The noise is seeded by the weight's name.
- The three centres start from distant tokens instead of random ones.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import Edit, TextEdit, WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput
from efface.methods.base import CannotCombine, Method
from efface.methods.closed_form.speed_tokens import (
    Rows,
    SpeedTokens,
    left_out,
    retained_prompts,
    retained_rows,
    retained_tensors,
    speed_tokens,
    stored_retained,
)
from efface.methods.closed_form.stored import stored_tokens
from efface.methods.closed_form.tokens import value_weights
from efface.methods.left_out import warn_left_out
from efface.models.model import Model
from efface.request.record import Request
from efface.settings import Settings

_INDEPENDENT = 1e-9  # share of a token's norm


class SpeedConfig(Settings):
    """SPEED's settings, by the reference's names.

    Attributes:
        params: The maps to edit: values, keys, or both.
        aug_num: The number of copies of each retained token; 0 turns the augmentation and the filter off.
        threshold: The bound on the eigenvalues of R that span the null space; the reference uses 1e-4 for 10 or more
            concepts.
        retain_scale: The ridge rho; None is 0.7 for a request of kind `unsafe`, else 1. The reference uses 0.05 for
            many people.
        lamb: The slack of the invariants; None is 0.5 for a request of kind `unsafe`, else 0, which preserves them
            exactly.
        disable_filter: Whether to retain all tokens, and the chosen copies of all of them; None retains a list of at
            most half the text width exactly, and filters a longer one.
        seed: The seed of the copies' noise.
    """

    params: Literal["V", "K", "KV"] = "V"
    aug_num: int = Field(default=10, ge=0)
    threshold: float = Field(default=0.1, gt=0)
    retain_scale: float | None = Field(default=None, gt=0)
    lamb: float | None = Field(default=None, ge=0)
    disable_filter: bool | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def of_text(self) -> bool:
        """Whether the change is the same for all maps that read the text."""
        return self.params == "KV" and self.aug_num == 0


def erase(model: Model, request: Request, config: SpeedConfig) -> Solution:
    """Solve for a request. The weights are read one after the other, unless the change is the same for all.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.

    Raises:
        BadInput: A weight or an embedding is not finite.
    """
    config = _resolved(request, config)
    warn_left_out("speed", left_out(request), "that name an erased concept")
    tokens, embedded = speed_tokens(model, request)
    rows = retained_rows(model, request)
    exact = _exact_rows(rows, rows.count, model.width, request, config)
    started = time.perf_counter()
    edits: tuple[Edit, ...]
    inputs: dict[str, Tensor] = {}
    if config.of_text:
        inputs = tokens.tensors() | retained_tensors(rows, model.width)
        edits = (_text_edit(inputs, exact, config),)
    else:
        readers = tuple(f"to_{letter.lower()}.weight" for letter in config.params)
        edits = tuple(
            _weight_edit(name, weight, tokens, rows, exact, config) for name, weight in value_weights(model, readers)
        )
    notes = {"settings": config.model_dump()}
    return Solution(request, edits, inputs, notes, embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts from the stored tokens, if the edit does not depend on the weights.

    Raises:
        CannotCombine: The edit depends on the weights; or the parts retain different prompts, and one stores a summary.
    """
    config = _resolved(request, SpeedConfig.model_validate(request.options))
    if not config.of_text:
        raise CannotCombine(
            "speed refined the retained tokens by the model's weights (params=KV with aug_num=0 does not)"
        )
    inputs = {
        **stored_tokens(parts, request),
        **stored_retained(parts, request),
        "invariant": parts[0].inputs["invariant"],
    }
    notes = {**parts[0].notes, "settings": config.model_dump()}
    exact = _exact_rows([inputs["retained"]], int(inputs["retained.count"]), inputs["edited"].shape[1], request, config)
    return Solution(request, (_text_edit(inputs, exact, config),), inputs, notes)


def factors(tokens: SpeedTokens, gram: Tensor, exact: Tensor, config: SpeedConfig) -> tuple[Tensor, Tensor]:
    """The factors (A - C)/k and C (N - N K (K^T N K + lamb I)^-1 K^T N) of the change, both (n, d).

    Args:
        tokens: The tokens C, A and K.
        gram: The matrix R of the retained tokens, (d, d).
        exact: The tokens that P is orthogonal to besides, (m, d).
        config: The settings, without None.
    """
    assert config.retain_scale is not None
    assert config.lamb is not None
    C, K, rho = tokens.edited, tokens.invariant.T, config.retain_scale
    values, vectors = torch.linalg.eigh(gram)
    null = vectors[:, values < config.threshold]
    P = null @ null.T
    if len(exact):
        left, singular, _ = torch.linalg.svd(P @ (exact / exact.norm(dim=1, keepdim=True)).T, full_matrices=False)
        in_null = left[:, singular > _INDEPENDENT]
        P = P - in_null @ in_null.T
    X, unit = C @ P, torch.eye(len(C), dtype=C.dtype)
    # N = P (S_tt P + rho I)^-1, by Woodbury.
    N = (P - X.T @ torch.linalg.solve(tokens.concepts * rho * unit + X @ C.T, X)) / rho
    NK = N @ K
    inner = K.T @ NK + config.lamb * torch.eye(K.shape[1], dtype=K.dtype)
    # The matrix is singular if lamb is 0 and the invariants are already retained (P K = 0).
    return (tokens.guides - C) / tokens.concepts, C @ (N - NK @ torch.linalg.pinv(inner, hermitian=True) @ NK.T)


def _weight_edit(
    name: str, weight: Tensor, tokens: SpeedTokens, rows: Rows, exact: Tensor, config: SpeedConfig
) -> WeightEdit:
    if not weight.isfinite().all():
        raise BadInput("The model's weights are not finite, so no eraser can be computed.")
    gram = refined(
        weight,
        tokens,
        rows,
        copies=config.aug_num,
        choose=config.aug_num > 0 and not config.disable_filter and not len(exact),
        seed=config.seed * 2**32 + zlib.crc32(name.encode()),
    )
    change, down = factors(tokens, gram, exact, config)
    return WeightEdit(f"denoiser.{name}", up=(weight @ change.T).contiguous(), down=down.contiguous())


def _text_edit(inputs: Mapping[str, Tensor], exact: Tensor, config: SpeedConfig) -> TextEdit:
    gram = inputs["retained"].T @ inputs["retained"] / inputs["retained.count"]
    change, down = factors(SpeedTokens.from_tensors(inputs), gram, exact, config)
    return TextEdit(change.T.contiguous(), down.T.contiguous())


def _exact_rows(rows: Iterable[Tensor], count: int, width: int, request: Request, config: SpeedConfig) -> Tensor:
    """The tokens of a short list, which are retained exactly, (m, d), float64; none of a long list.

    A long list is filtered, and a warning reports this.
    """
    none = torch.zeros(0, width, dtype=torch.float64)
    if config.disable_filter is not None or not retained_prompts(request):
        return none
    if 2 * count <= width:
        return torch.cat([none, *rows])
    if config.aug_num:
        warnings.warn(
            f"speed retains at most {width // 2} preserved prompts exactly; of {count}, every layer retains only those "
            "that the erasure changes more than the mean.",
            stacklevel=5,
        )
    return none


def _resolved(request: Request, config: SpeedConfig) -> SpeedConfig:
    """The settings, with None replaced by the published values for the kind."""
    unsafe = all(concept.kind == "unsafe" for concept in request.concepts)
    published = {"retain_scale": 0.7, "lamb": 0.5} if unsafe else {"retain_scale": 1.0, "lamb": 0.0}
    given = {name: value for name, value in config.model_dump().items() if value is not None}
    return SpeedConfig.model_validate(published | given)


def refined(weight: Tensor, tokens: SpeedTokens, rows: Rows, *, copies: int, choose: bool, seed: int) -> Tensor:
    """The mean R (d, d) of r r^T over the refined tokens.

    Args:
        weight: The weight W, (d_out, d), float64.
        tokens: The edited tokens.
        rows: The retained tokens.
        copies: The number of copies of each token. Copies that dW0 moves more than the mean are used.
        choose: Whether to retain only tokens that dW0 moves more than the mean.
        seed: The seed of the copies' noise.
    """
    first_change = _FirstChange(weight, tokens)
    retained = torch.ones(rows.count, dtype=torch.bool)
    if choose:
        strength = torch.cat([first_change.strength(first_change.coordinates(batch)) for batch in rows])
        above = strength > strength.mean()
        retained = above if bool(above.any()) else retained  # none is above the mean if all are equal
    count = int(retained.sum())
    # P_min eps is a normal number times v, the least right singular vector.
    v = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(copies)]
    shifts = torch.stack(noise) if noise else torch.zeros(0, count, dtype=torch.float64)
    strengths = torch.cat(
        [
            first_change.strength(first_change.coordinates(batch) + shifts[:, part, None] * first_change.coordinates(v))
            for batch, part in _retained_batches(rows, retained)
        ],
        dim=1,
    )
    chosen = (strengths > strengths.mean()).double()
    # The sum of (r + s v)(r + s v)^T over a token's chosen copies needs only their number, sum s and sum s^2.
    times, sums = 1 + chosen.sum(0), (chosen * shifts).sum(0)
    gram, along = torch.zeros(len(v), len(v), dtype=torch.float64), torch.zeros_like(v)
    for batch, part in _retained_batches(rows, retained):
        gram += batch.T @ (times[part, None] * batch)
        along += sums[part] @ batch
    gram += torch.outer(along, v) + torch.outer(v, along) + (chosen * shifts.square()).sum() * torch.outer(v, v)
    return gram / times.sum()


class _FirstChange:
    """The length of dW0 r for dW0 = W (S_at - S_tt) (I + S_tt)^-1, by coordinates z in R^n: |dW0 r| = |R z|."""

    def __init__(self, weight: Tensor, tokens: SpeedTokens) -> None:
        C, k = tokens.edited, tokens.concepts
        # C (I + C^T C/k)^-1 = k (k I + C C^T)^-1 C, and the k goes with the mean.
        self._through = torch.linalg.solve(k * torch.eye(len(C), dtype=C.dtype) + C @ C.T, C)
        self._lengths = torch.linalg.qr(weight @ (tokens.guides - C).T).R

    def coordinates(self, rows: Tensor) -> Tensor:
        """The coordinates z, (..., n), of tokens (..., d)."""
        return rows @ self._through.T

    def strength(self, coordinates: Tensor) -> Tensor:
        """The lengths |dW0 r|, (...,), for coordinates z (..., n)."""
        return (coordinates @ self._lengths.T).norm(dim=-1)


def _retained_batches(rows: Rows, retained: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """The retained tokens of each batch, and their positions among all retained tokens."""
    read = first = 0
    for batch in rows:
        chosen = batch[retained[read : (read := read + len(batch))]]
        yield chosen, slice(first, (first := first + len(chosen)))


ENTRY = Method(
    name="speed",
    summary="Moves a concept's values to its guide's within the null space of the preserved prompts.",
    paper="https://arxiv.org/abs/2503.07392",
    repository="https://github.com/Ouxiang-Li/SPEED",
    edit="weight",
    config=SpeedConfig,
    erase=erase,
    combine=combine,
)
