"""How near any text embedding can bring an erased concept back: a number that no search can fall below.

An edit M = I + L R^T sends a token e to M e, so an attacker who chooses e reaches the keys and values W_l M e. Of the
concept's last subject token c, whose keys and values are W_l c, at least this share stays out of reach:

    rho(M)^2 = min_{e in E} sum_l |W_l (M e - c)|^2 / sum_l |W_l c|^2 = min_{e in E} |M e - c|_S^2 / |c|_S^2

with S = sum_l W_l^T W_l. Three numbers between 0 (fully restored) and about 1:

- `free`: E = R^d, for attacks that inject embeddings. With N a basis of null(M^T), any y in range(M) has N^T y = 0, so
  rho^2 |c|_S^2 = (N^T c)^T (N^T S^-1 N)^-1 (N^T c): zero for every invertible M, among them those of ridge regressions.
- `text`: E = {gamma z + beta : 1^T z = 0, |z|^2 <= d}: all that a text encoder that ends in a LayerNorm (weight gamma,
  bias beta) can say, for any prompt, soft token or textual inversion. A least-squares problem in a ball; None where
  the denoiser reads a layer without that norm.
- `ceiling`: |c - g|_S / |c|_S, which no eraser exceeds that lets the guide g through unchanged (for then e = g).

Where a concept has several tokens, in several text streams or of several text encoders, the sums run over all of them,
streams that the eraser leaves alone included; `text` is None unless it is defined for all.

It bounds the reproduction of one token's keys and values, and nothing else. It does not bound the picture: other tokens
of a prompt may draw the concept without the concept's own keys and values, a residual that is small in this norm may
still hide it or a large one show it, and weights may be tuned again. A certificate is of one model's S: a fine-tuned
denoiser has another one. And it is of the edit as it is stored: a singular M that was rounded, as by baking into half
precision, is invertible again, though only by embeddings larger than the concept's by the inverse of the rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor

from efface.base_check import check_base
from efface.edits import TextEdit
from efface.eraser import Eraser
from efface.errors import BadRequest
from efface.methods.operators import least_rank
from efface.methods.tokens import prompt_pairs
from efface.models.base import Model
from efface.models.text_gram import TextGram, fingerprint, text_gram

_JOIN = "+"  # between the fingerprints of a model's text streams
_SINGULAR = 1e-12  # of 1 + |L|: below it, a singular value of M is zero that rounding has moved


@dataclass(frozen=True)
class Certificate:
    """What stays out of reach of a concept's keys and values, as a share of them."""

    free: float
    text: float | None
    ceiling: float


def certify(model: Model, eraser: Eraser) -> Eraser:
    """The eraser with a certificate for each concept, and the fingerprint of the S that it holds for.

    An eraser that is not one edit of the text embeddings has no certificate, and is returned as it is.

    Raises:
        WrongBase: the eraser was made for another model.
        BadRequest: the model reads nothing of a concept, so that there is nothing to certify.
    """
    edits = {edit.stream: edit for edit in eraser.edits if isinstance(edit, TextEdit)}
    if not edits or len(edits) != len(eraser.edits):
        return eraser
    check_base(eraser, model)
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in eraser.request.concepts), strict=True)
    skip = eraser.request.clip_skip
    squares = torch.zeros(4, len(prompts), dtype=torch.float64)
    fingerprints: list[str] = []
    for stream in model.streams:
        reader = model.reading(stream)
        gram = text_gram(reader)
        nothing = torch.zeros(reader.width, 0, dtype=torch.float64)
        tokens = reader.embed(prompts, clip_skip=skip).last_tokens.double()
        aims = reader.embed(guides, clip_skip=skip).last_tokens.double()
        edit = edits.get(stream, TextEdit(nothing, nothing))
        # A prompt has a token for each of the stream's text encoders.
        residuals = _residuals(edit, gram, tokens, aims, _affine(reader.text_norm))
        squares += residuals.square().reshape(4, len(prompts), -1).sum(2)
        fingerprints.append(gram.fingerprint)
    unread = [name for name, norm in zip(eraser.concepts, squares[3].tolist(), strict=True) if norm == 0]
    if unread:
        raise BadRequest(f"{model.name} reads nothing of '{unread[0]}': its keys and values are zero.")
    record = {name: asdict(of_one) for name, of_one in zip(eraser.concepts, _shares(squares.sqrt()), strict=True)}
    told = {"fingerprint": _JOIN.join(fingerprints), "concepts": record}
    return replace(eraser, provenance={**eraser.provenance, "certificate": told})


def _affine(norm: Any) -> tuple[Tensor, Tensor] | None:
    return None if norm is None else (norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double())


def holding(model: Model, eraser: Eraser) -> Mapping[str, Mapping[str, float | None]] | None:
    """An eraser's certificate, by concept, if it is one of this model; with a warning if it is of another."""
    if eraser.certificate is None:
        return None
    found = _JOIN.join(fingerprint(model.reading(stream)) for stream in model.streams)
    if eraser.provenance["certificate"]["fingerprint"] != found:
        warnings.warn(
            f"The certificate of the eraser of {', '.join(eraser.concepts)} does not hold: {model.name} reads text by "
            "other weights than it was made for.",
            stacklevel=2,
        )
        return None
    return eraser.certificate


def certificates(
    edit: TextEdit, gram: TextGram, tokens: Tensor, guides: Tensor, affine: tuple[Tensor, Tensor] | None
) -> list[Certificate]:
    """The certificate of each of n tokens.

    Args:
        edit: M - I.
        gram: S.
        tokens: c, (n, d), float64.
        guides: g, (n, d), float64.
        affine: gamma and beta of the text encoder's last LayerNorm, (d,) each; None where there is none.
    """
    return _shares(_residuals(edit, gram, tokens, guides, affine))


def _residuals(
    edit: TextEdit, gram: TextGram, tokens: Tensor, guides: Tensor, affine: tuple[Tensor, Tensor] | None
) -> Tensor:
    """What `free`, `text` and `ceiling` are shares of, and what of, (4, n); NaN where there is no `text`."""
    edit = TextEdit(edit.left.cpu().double(), edit.right.cpu().double())
    norms = gram.norms(tokens)
    text = torch.full_like(norms, torch.nan) if affine is None else text_residuals(edit, gram, tokens, *affine)
    return torch.stack([free_residuals(edit, gram, tokens), text, gram.norms(tokens - guides), norms])


def _shares(residuals: Tensor) -> list[Certificate]:
    """Certificates of residuals (4, n)."""
    rows = (residuals[:3] / residuals[3]).T.tolist()
    return [Certificate(free, None if isnan(text) else text, ceiling) for free, text, ceiling in rows]


def free_residuals(edit: TextEdit, gram: TextGram, tokens: Tensor) -> Tensor:
    """min over all e in R^d of |M e - c|_S for each token c, (n,).

    With delta = M e - c = F^+ v + K t, where F^T F = S and S K = 0, the task is: smallest |v| with N^T delta = -N^T c.
    """
    normals = _normals(edit)
    bound = normals.T @ gram.inverse_root
    sides = normals.T @ tokens.T
    # What no layer reads can be chosen at will: constraints that it can meet cost nothing and are left out.
    rows, strength, _ = torch.linalg.svd(normals.T @ gram.null_space)
    binding = rows[:, int((strength > 1e-10).sum()) :].T
    bound, sides = binding @ bound, binding @ sides
    return (torch.linalg.pinv(bound, rtol=1e-13) @ sides).norm(dim=0)


def _normals(edit: TextEdit) -> Tensor:
    """N, an orthonormal basis of null(M^T), (d, m): with R orthonormal it is R times that of I + L^T R."""
    edit = least_rank(edit)
    core = torch.eye(edit.rank, dtype=torch.float64) + edit.left.T @ edit.right
    _, values, rows = torch.linalg.svd(core)
    size = torch.linalg.matrix_norm(edit.left, 2) if edit.rank else 0.0
    return edit.right @ rows[values <= _SINGULAR * (1 + size)].T


def text_residuals(edit: TextEdit, gram: TextGram, tokens: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """min over e = gamma z + beta, 1^T z = 0, |z|^2 <= d, of |M e - c|_S for each token c, (n,).

    A = F M diag(gamma) (I - 1 1^T / d) = U diag(s) V^T and b = F (c - M beta) make it min |A z - b| over |z|^2 <= d,
    since the smallest such z has no part along 1. Either the least-squares solution lies in the ball, or
    z = (A^T A + mu I)^-1 A^T b with the one mu > 0 that has |z|^2 = d.
    """
    left, values, _ = _heard(edit, gram, gamma)
    aims = gram.root @ (tokens - edit(beta)).T
    shares = left.T @ aims
    beyond = (aims - left @ shares).norm(dim=0)
    damping = [_damping(values, share, edit.dim) for share in shares.T]
    inside = [(mu * share / (values.square() + mu)).norm() for mu, share in zip(damping, shares.T, strict=True)]
    return torch.hypot(beyond, torch.stack(inside))


def text_nearest(edit: TextEdit, gram: TextGram, tokens: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The e, (n, d), at which `text_residuals` has its minima: what a text encoder would best say."""
    left, values, right = _heard(edit, gram, gamma)
    shares = left.T @ gram.root @ (tokens - edit(beta)).T
    found = [values * share / (values.square() + _damping(values, share, edit.dim)) for share in shares.T]
    return torch.stack(found) @ right * gamma + beta


def _heard(edit: TextEdit, gram: TextGram, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (r, k), s (k,) and V^T (k, d) of A, without what is zero but for rounding."""
    heard = gram.root @ (torch.diag(gamma) + edit.left @ (edit.right.T * gamma))
    left, values, right = torch.linalg.svd(heard - heard.mean(dim=1, keepdim=True), full_matrices=False)
    real = values > edit.dim * torch.finfo(values.dtype).eps * values.max()
    return left[:, real], values[real], right[real]


def _damping(values: Tensor, share: Tensor, radius: int) -> Tensor:
    """The mu >= 0 that keeps z = s share / (s^2 + mu) (k,) in the ball |z|^2 <= radius, by bisection."""

    def outside(mu: Tensor) -> bool:
        return bool((values * share / (values.square() + mu)).square().sum() > radius)

    low = torch.zeros((), dtype=torch.float64)
    if not outside(low):
        return low
    high = (values * share).norm() / radius**0.5
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if outside(middle) else (low, middle)
    return high
