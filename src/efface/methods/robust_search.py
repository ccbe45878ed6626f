"""Searches for what brings a concept back through an edited model, in closed form; see `robust`.

Shapes: k concepts, n candidates, V words, d text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.bounds import text_nearest
from efface.edits import TextEdit
from efface.methods.certified_solve import apart, span
from efface.methods.tokens import Pairs
from efface.models.text_gram import TextGram

_RIDGE = 1e-4  # attacks by embeddings up to some hundred times as long as the model's own
ROOM = 0.1  # share of a concept's way to its guide, below which a word is too much one of what is kept
GAIN = 0.05  # of a score: what taking out a shift must promise, since it moves other prompts too


@dataclass(frozen=True, eq=False)
class Found:
    """One thing to erase: a word's token (d,), or a shift (d,) from a guide's token.

    Attributes:
        owner: position of the concept that it brings back.
        search: what found it.
        row: among which candidates.
        what: in words.
        score: before it is erased.
        token: the token or the shift.
        guide: the guide's token.
    """

    owner: int
    search: str
    row: int
    what: str
    score: float
    token: Tensor
    guide: Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """How near each of a search's candidates comes to the concepts.

    Attributes:
        search: its name.
        scores: (n,): 0 where the concept is back, 1 where its guide is.
        owner: (n,).
        tokens: (n, d): what to erase.
        guides: (n, d).
        what: the n candidates in words.
        open: (n,), whether it may and can be erased.
    """

    search: str
    scores: Tensor
    owner: Tensor
    tokens: Tensor
    guides: Tensor
    what: Sequence[str]
    open: Tensor

    def best(self, owner: int) -> float | None:
        """The lowest score of a concept's candidates."""
        of_one = self.scores[self.owner == owner]
        return float(of_one.min()) if len(of_one) else None

    def picked(self, owner: int, count: int, threshold: float) -> list[Found]:
        """The first `count` of a concept's candidates below the threshold that can be erased."""
        rows = torch.where((self.owner == owner) & self.open & (self.scores < threshold))[0]
        first: list[int] = rows[self.scores[rows].argsort(stable=True)][:count].tolist()
        return [
            Found(owner, self.search, row, self.what[row], float(self.scores[row]), self.tokens[row], self.guides[row])
            for row in first
        ]


def derive(
    edit: TextEdit, gram: TextGram, targets: Pairs, fixed: Tensor, affine: tuple[Tensor, Tensor] | None, projected: bool
) -> Seen:
    """For every token c of prompts with the concept, and g of the same prompt with the guide, what restores c.

        e = argmin_e |M e - c'|_S^2 + ridge |e|_S^2,   c' = c - g + M g,   score |M e - c'|_S / |c - g|_S

    over all e, or with `affine` over what a text encoder with that last norm can say. What is to be erased is the shift
    e - g; of a projection M e - M g, which M itself leaves alone.
    """
    aims = targets.edited - targets.guides + edit(targets.guides)
    found = reached(edit, gram, aims) if affine is None else text_nearest(edit, gram, aims, *affine)
    sizes = gram.norms(targets.edited - targets.guides)
    shifts = found - targets.guides
    shifts = edit(shifts) if projected else shifts
    real = sizes > 1e-6 * sizes.max()  # of equal prompts' equal tokens, nothing is to be erased
    scores = torch.where(real, gram.norms(edit(found) - aims) / sizes, torch.inf)
    prompts = [targets.embedded.prompts[row] for row in targets.prompt.tolist()]
    return Seen(
        search="derive",
        scores=scores,
        owner=targets.owner,
        tokens=shifts,
        guides=targets.guides,
        what=[f"a token of '{prompt}'" for prompt in prompts],
        open=worth(gram, shifts, fixed, scores, sizes) if projected else real,
    )


def worth(gram: TextGram, shifts: Tensor, fixed: Tensor, scores: Tensor, sizes: Tensor) -> Tensor:
    """Whether taking each shift (n, d) out of the range can raise its score by GAIN: (n,).

    What a shift has outside of what is kept is orthogonal to what is missed already, so the score rises at most to the
    root of the sum of both squares.
    """
    room = outside(gram, shifts, fixed) / sizes
    return torch.hypot(scores, room) > scores + GAIN


def outside(gram: TextGram, tokens: Tensor, fixed: Tensor) -> Tensor:
    """The S norm of what tokens (n, d) have outside the span of the fixed ones (f, d), (n,)."""
    return apart(gram.root @ tokens.T, span(gram.root @ fixed.T)).norm(dim=0)


def reached(edit: TextEdit, gram: TextGram, aims: Tensor) -> Tensor:
    """argmin_e |M e - aim|_S^2 + ridge |e|_S^2 for each aim (n, d), in coordinates where the S norm is Euclidean."""
    through = gram.root @ (gram.inverse_root + edit.left @ (edit.right.T @ gram.inverse_root))  # F M F^+
    left, values, right = torch.linalg.svd(through)
    damped = values / (values.square() + _RIDGE)
    return (gram.inverse_root @ (right.T @ (damped[:, None] * (left.T @ gram.root @ aims.T)))).T


def neighbours(
    edit: TextEdit,
    gram: TextGram,
    words: Sequence[str],
    tokens: Tensor,
    concepts: Tensor,
    guides: Tensor,
    fixed: Tensor,
    closed: Tensor,
) -> Seen:
    """Words v, as prompts of their own, by how near the edited model reads them to a concept c:

        score |M v - c|_S / |c - g|_S;   each word counts for the concept that it is nearest to.

    Args:
        edit: M - I.
        gram: S.
        words: V words.
        tokens: their last subject tokens, (V, d).
        concepts: c, (k, d).
        guides: g, (k, d).
        fixed: what must not move, (f, d); none where nothing need be kept exactly.
        closed: (V,), the words that must not be erased.
    """
    scores = word_scores(edit, gram, tokens, concepts, guides)
    best, owner = scores.min(dim=0)
    room = outside(gram, tokens.double(), fixed)
    return Seen(
        search="neighbours",
        scores=best,
        owner=owner,
        tokens=tokens.double(),
        guides=guides[owner],
        what=words,
        open=~closed & (room > ROOM * gram.norms(concepts - guides)[owner]),
    )


def word_scores(edit: TextEdit, gram: TextGram, tokens: Tensor, concepts: Tensor, guides: Tensor) -> Tensor:
    """|M v - c|_S / |c - g|_S of n tokens for k concepts, (k, n)."""
    heard = (gram.root + (gram.root @ edit.left) @ edit.right.T) @ tokens.double().T
    distances = torch.cdist(concepts @ gram.root.T, heard.T, compute_mode="donot_use_mm_for_euclid_dist")
    return distances / gram.norms(concepts - guides)[:, None]
