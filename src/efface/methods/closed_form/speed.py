"""SPEED: each value map is moved towards the guides only within the null space of what is retained.

With target tokens as rows of C (n, d), their anchors (guides) A, and k concepts:

    S_tt = C^T C / k,   S_at = A^T C / k,   R = (1/N) sum r r^T = U S U^T over the refined retained tokens
    P = U_0 U_0^T, U_0 the eigenvectors of R below `threshold`
    M = (S_tt P + rho I)^-1
    W' = W + W (S_at - S_tt) P (I - M K (K^T P M K + lamb I)^-1 K^T P) M

K (d, 4) holds the start token and three centres of the empty prompt's other tokens: they stay exactly (IEC, invariant
equality constraints). The retained tokens are refined for each weight, with dW0 = W (S_at - S_tt) (I + S_tt)^-1:
- IPF, influence-based prior filtering: only r with |dW0 r| above the mean are retained;
- DPA, directed prior augmentation: `aug_num` copies r + P_min eps of each, eps normal and P_min the projection on W's
  least right singular vector; copies with |dW0 r'| above the mean are retained too.

P M is symmetric, so with N = P M the change is W (A - C)^T/k @ C (N - N K (K^T N K + lamb I)^-1 K^T N): of rank n.

Paper: https://arxiv.org/abs/2503.07392 (ICLR 2026). Reference: https://github.com/Ouxiang-Li/SPEED
Unlike there: means are over all retained tokens instead of 128 (and, for copies, the copies of 128) at a time; noise is
seeded by the weight's name; the three centres start from tokens far apart instead of from chance.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
    retained_rows,
    speed_tokens,
    stored,
    stored_retained,
)
from efface.methods.closed_form.stored import stored_tokens
from efface.methods.closed_form.tokens import value_weights
from efface.models.model import Model
from efface.request.record import Request
from efface.settings import Settings


class SpeedConfig(Settings):
    """SPEED's settings, by the reference's names.

    Attributes:
        params: which maps are edited: values, keys, or both.
        aug_num: copies a retained token; 0 makes none, and filters none.
        threshold: eigenvalues of R below it span the null space; the reference takes 1e-4 for 10 concepts and more.
        retain_scale: rho; None is 0.7 for a request of kind `unsafe`, else 1. The reference takes 0.05 for many people.
        lamb: how far the invariants may give; None is 0.5 for a request of kind `unsafe`, else 0: they stay exactly.
        disable_filter: retain all tokens, and the copies chosen among theirs.
        seed: of the copies' noise.
    """

    params: Literal["V", "K", "KV"] = "V"
    aug_num: int = Field(default=10, ge=0)
    threshold: float = Field(default=0.1, gt=0)
    retain_scale: float | None = Field(default=None, gt=0)
    lamb: float | None = Field(default=None, ge=0)
    disable_filter: bool = False
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def of_text(self) -> bool:
        """Whether the change is the same for all maps that read the text."""
        return self.params == "KV" and self.aug_num == 0


def erase(model: Model, request: Request, config: SpeedConfig) -> Solution:
    """Solve for a request; the weights are read one after the other, unless the change is the same for all."""
    config = _resolved(request, config)
    tokens, embedded = speed_tokens(model, request)
    rows = retained_rows(model, request)
    started = time.perf_counter()
    edits: tuple[Edit, ...]
    inputs: dict[str, Tensor] = {}
    if config.of_text:
        inputs = tokens.tensors() | stored(rows, model.width)
        edits = (_text_edit(inputs, config),)
    else:
        wanted = value_weights(model, tuple(f"to_{letter.lower()}.weight" for letter in config.params))
        edits = tuple(
            _weight_edit(name, weight.double().cpu(), tokens, rows, config)
            for name, weight in model.text_weights()
            if name in wanted
        )
    notes = {"settings": config.model_dump()}
    return Solution(request, edits, inputs, notes, embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts, from the stored tokens, if the weights took no part in solving.

    Raises:
        CannotCombine: The weights took part; or the parts retain different prompts, and one stored only a summary.
    """
    config = _resolved(request, SpeedConfig.model_validate(request.options))
    if not config.of_text:
        raise CannotCombine("speed refined what it retains by the model's weights (params=KV with aug_num=0 does not)")
    inputs = {
        **stored_tokens(parts, request),
        **stored_retained(parts, request),
        "invariant": parts[0].inputs["invariant"],
    }
    notes = {**parts[0].notes, "settings": config.model_dump()}
    return Solution(request, (_text_edit(inputs, config),), inputs, notes)


def factors(tokens: SpeedTokens, gram: Tensor, config: SpeedConfig) -> tuple[Tensor, Tensor]:
    """(A - C)/k and C (N - N K (K^T N K + lamb I)^-1 K^T N), both (n, d), for R = `gram` (d, d)."""
    assert config.retain_scale is not None
    assert config.lamb is not None
    C, K, rho = tokens.edited, tokens.invariant.T, config.retain_scale
    values, vectors = torch.linalg.eigh(gram)
    null = vectors[:, values < config.threshold]
    P = null @ null.T
    X, unit = C @ P, torch.eye(len(C), dtype=C.dtype)
    # N = P (S_tt P + rho I)^-1, by Woodbury.
    N = (P - X.T @ torch.linalg.solve(tokens.concepts * rho * unit + X @ C.T, X)) / rho
    NK = N @ K
    inner = K.T @ NK + config.lamb * torch.eye(K.shape[1], dtype=K.dtype)
    # The pseudo-inverse: without lamb, invariants that are retained already (P K = 0) have nothing left to hold.
    return (tokens.guides - C) / tokens.concepts, C @ (N - NK @ torch.linalg.pinv(inner, hermitian=True) @ NK.T)


def _weight_edit(name: str, weight: Tensor, tokens: SpeedTokens, rows: Rows, config: SpeedConfig) -> WeightEdit:
    if not weight.isfinite().all():
        raise BadInput("The model's weights are not finite; nothing is made.")
    gram = refined(
        weight,
        tokens,
        rows,
        copies=config.aug_num,
        choose=config.aug_num > 0 and not config.disable_filter,
        seed=config.seed * 2**32 + zlib.crc32(name.encode()),
    )
    change, down = factors(tokens, gram, config)
    return WeightEdit(f"denoiser.{name}", up=(weight @ change.T).contiguous(), down=down.contiguous())


def _text_edit(inputs: Mapping[str, Tensor], config: SpeedConfig) -> TextEdit:
    gram = inputs["retained"].T @ inputs["retained"] / inputs["retained.count"]
    change, down = factors(SpeedTokens.from_tensors(inputs), gram, config)
    return TextEdit(change.T.contiguous(), down.T.contiguous())


def _resolved(request: Request, config: SpeedConfig) -> SpeedConfig:
    """The published settings for the kind, where none are given."""
    unsafe = all(concept.kind == "unsafe" for concept in request.concepts)
    published = {"retain_scale": 0.7, "lamb": 0.5} if unsafe else {"retain_scale": 1.0, "lamb": 0.0}
    given = {name: value for name, value in config.model_dump().items() if value is not None}
    return SpeedConfig.model_validate(published | given)


def refined(weight: Tensor, tokens: SpeedTokens, rows: Rows, *, copies: int, choose: bool, seed: int) -> Tensor:
    """R (d, d), the mean of r r^T over the refined tokens.

    Args:
        weight: W, (d_out, d), float64.
        tokens: what is edited.
        rows: what is retained.
        copies: how many of each token are made, of which those touched more than their mean are taken.
        choose: retain only tokens touched more than their mean.
        seed: of the copies' noise.
    """
    touch = _Touch(weight, tokens)
    retained = torch.ones(rows.count, dtype=torch.bool)
    if choose:
        strength = torch.cat([touch.strength(touch.seen(batch)) for batch in rows])
        above = strength > strength.mean()
        retained = above if bool(above.any()) else retained  # all are alike: there is nothing to choose
    count = int(retained.sum())
    # P_min eps is one normal number along v, the least right singular vector.
    v = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(copies)]
    shifts = torch.stack(noise) if noise else torch.zeros(0, count, dtype=torch.float64)
    strengths = torch.cat(
        [
            touch.strength(touch.seen(batch) + shifts[:, part, None] * touch.seen(v))
            for batch, part in _kept(rows, retained)
        ],
        dim=1,
    )
    chosen = (strengths > strengths.mean()).double()
    # (r + s v)(r + s v)^T summed over a token's chosen copies takes their number, sum s and sum s^2, and no copy.
    times, sums = 1 + chosen.sum(0), (chosen * shifts).sum(0)
    gram, along = torch.zeros(len(v), len(v), dtype=torch.float64), torch.zeros_like(v)
    for batch, part in _kept(rows, retained):
        gram += batch.T @ (times[part, None] * batch)
        along += sums[part] @ batch
    gram += torch.outer(along, v) + torch.outer(v, along) + (chosen * shifts.square()).sum() * torch.outer(v, v)
    return gram / times.sum()


class _Touch:
    """How far dW0 = W (S_at - S_tt) (I + S_tt)^-1 moves tokens, by what it sees of them: |dW0 r| = |R z|, z in R^n."""

    def __init__(self, weight: Tensor, tokens: SpeedTokens) -> None:
        C, k = tokens.edited, tokens.concepts
        # C (I + C^T C/k)^-1 = k (k I + C C^T)^-1 C, and the k goes with the mean.
        self._through = torch.linalg.solve(k * torch.eye(len(C), dtype=C.dtype) + C @ C.T, C)
        self._lengths = torch.linalg.qr(weight @ (tokens.guides - C).T).R

    def seen(self, rows: Tensor) -> Tensor:
        """z of tokens (..., d), (..., n)."""
        return rows @ self._through.T

    def strength(self, seen: Tensor) -> Tensor:
        """|dW0 r| for z (..., n)."""
        return (seen @ self._lengths.T).norm(dim=-1)


def _kept(rows: Rows, retained: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """The retained tokens of each batch, and where they stand among all retained ones."""
    read = first = 0
    for batch in rows:
        mine = batch[retained[read : (read := read + len(batch))]]
        yield mine, slice(first, (first := first + len(mine)))


METHOD = Method(
    name="speed",
    summary="Moves a concept's values to its guide's within the null space of what is retained; no one else's change.",
    paper="https://arxiv.org/abs/2503.07392",
    repository="https://github.com/Ouxiang-Li/SPEED",
    edit="weight",
    config=SpeedConfig,
    erase=erase,
    combine=combine,
)
