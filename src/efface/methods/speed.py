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

import re
import time
import zlib
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits import Edit, TextEdit, WeightEdit
from efface.eraser import Eraser
from efface.errors import BadRequest
from efface.methods.base import Method
from efface.methods.closed_form import check_finite
from efface.methods.speed_tokens import SpeedTokens, joined_retained, speed_tokens
from efface.methods.together import Apart, joined_tokens
from efface.methods.tokens import base_of, inputs_kept, only_erases, provenance, value_weights
from efface.models.base import Model
from efface.request import Request
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


def erase(model: Model, request: Request, config: SpeedConfig) -> Eraser:
    """Solve for a request; the weights are read one after the other, unless the change is the same for all."""
    only_erases(request)
    started = time.perf_counter()
    config = _resolved(request, config)
    tokens, embedded = speed_tokens(model, request, _unnamed(request))
    check_finite(tokens.edited, tokens.guides, tokens.retained, tokens.invariant)
    solving = time.perf_counter()
    edits: tuple[Edit, ...]
    inputs: dict[str, Tensor] = {}
    if config.of_text:
        edits, inputs = (_text_edit(tokens, config),), tokens.tensors()
    else:
        wanted = value_weights(model, tuple(f"to_{letter.lower()}.weight" for letter in config.params))
        edits = tuple(
            _weight_edit(name, weight.double().cpu(), tokens, config)
            for name, weight in model.text_weights()
            if name in wanted
        )
    return Eraser(request, edits, base_of(model, embedded), inputs, provenance(config.model_dump(), started, solving))


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts, replayed from what it stored, where the weights played no part."""
    request = eraser.request.keeping(names)
    config = _resolved(request, SpeedConfig.model_validate(request.options))
    if request.names == eraser.concepts:
        return eraser
    if not config.of_text:
        raise BadRequest(
            "speed refined what it retains by the model's weights, so this eraser cannot be split; erase again with "
            "the concepts that you want, or with params=KV and aug_num=0."
        )
    return _replayed(eraser, request, inputs_kept(eraser, request), config)


def together(erasers: Sequence[Eraser], request: Request) -> Eraser:
    """The eraser of all concepts of several, replayed from what they stored, where the weights played no part."""
    config = _resolved(request, SpeedConfig.model_validate(request.options))
    if not config.of_text:
        raise Apart("speed refined what it retains by the model's weights")
    invariant = {"invariant": erasers[0].inputs["invariant"]}
    inputs = {**joined_tokens(erasers, request), **joined_retained(erasers, request, _unnamed), **invariant}
    return _replayed(erasers[0], request, inputs, config)


def _replayed(eraser: Eraser, request: Request, inputs: dict[str, Tensor], config: SpeedConfig) -> Eraser:
    edit = _text_edit(SpeedTokens.from_tensors(inputs), config)
    told = {**eraser.provenance, "settings": config.model_dump()}
    return Eraser(request, (edit,), eraser.base, inputs, told)


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


def refined(weight: Tensor, name: str, tokens: SpeedTokens, config: SpeedConfig) -> Tensor:
    """R (d, d) for one weight, of the retained tokens that its change would touch most, and of copies of them."""
    unit = torch.eye(len(tokens.edited), dtype=torch.float64)
    # (I + S_tt)^-1 from the right, seen through C: C (I + C^T C/k)^-1 = k (k I + C C^T)^-1 C.
    through = torch.linalg.solve(tokens.concepts * unit + tokens.edited @ tokens.edited.T, tokens.edited)
    values = (tokens.guides - tokens.edited) @ weight.T

    def influence(rows: Tensor) -> Tensor:
        return (rows @ through.T @ values).norm(dim=1)

    rows = tokens.retained.double()
    if config.aug_num and not config.disable_filter:
        strength = influence(rows)
        above = strength > strength.mean()
        rows = rows[above] if bool(above.any()) else rows  # all are alike: there is nothing to choose
    if config.aug_num == 0:
        return rows.T @ rows / len(rows)
    least = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    generator = torch.Generator().manual_seed(config.seed * 2**32 + zlib.crc32(name.encode()))
    # P_min eps is one normal number along the least singular vector.
    shifts = [torch.randn(len(rows), generator=generator, dtype=rows.dtype) for _ in range(config.aug_num)]
    strengths = [influence(rows + shift[:, None] * least) for shift in shifts]
    mean = torch.cat(strengths).mean()
    gram, count = rows.T @ rows, len(rows)
    for shift, strength in zip(shifts, strengths, strict=True):
        chosen = (rows + shift[:, None] * least)[strength > mean]
        gram, count = gram + chosen.T @ chosen, count + len(chosen)
    return gram / count


def _weight_edit(name: str, weight: Tensor, tokens: SpeedTokens, config: SpeedConfig) -> WeightEdit:
    change, down = factors(tokens, refined(weight, name, tokens, config), config)
    return WeightEdit(f"denoiser.{name}", up=(weight @ change.T).contiguous(), down=down.contiguous())


def _text_edit(tokens: SpeedTokens, config: SpeedConfig) -> TextEdit:
    retained = tokens.retained.double()
    change, down = factors(tokens, retained.T @ retained / tokens.count, config)
    return TextEdit(change.T.contiguous(), down.T.contiguous())


def _resolved(request: Request, config: SpeedConfig) -> SpeedConfig:
    """The published settings for the kind, where none are given."""
    unsafe = all(concept.kind == "unsafe" for concept in request.concepts)
    published = {"retain_scale": 0.7, "lamb": 0.5} if unsafe else {"retain_scale": 1.0, "lamb": 0.0}
    given = {name: value for name, value in config.model_dump().items() if value is not None}
    return SpeedConfig.model_validate(published | given)


def _unnamed(request: Request) -> list[str]:
    """The preserved prompts that name no concept, as the reference has it."""
    named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in request.names), re.IGNORECASE)
    return [prompt for prompt in dict.fromkeys(request.preserve) if not named.search(prompt)]


METHOD = Method(
    name="speed",
    summary="Moves a concept's values to its guide's within the null space of what is retained; no one else's change.",
    paper="https://arxiv.org/abs/2503.07392",
    repository="https://github.com/Ouxiang-Li/SPEED",
    edit="weight",
    config=SpeedConfig,
    erase=erase,
    only=only,
    together=together,
)
