"""SPEED's refinement of what is retained, for one weight: tokens that its change would touch most, and copies of them.

The tokens are read a batch at a time. Of all of them at once there are only numbers: how strongly each is touched, by
how much each copy is shifted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from efface.methods.speed_tokens import Rows, SpeedTokens


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
