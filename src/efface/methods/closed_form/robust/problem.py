"""What `robust` solves for, its settings, and the two ways to solve for it; see `method`.

Shapes: k concepts, n edited tokens (the concepts' own, then words that were found), m shifts that were found, T tokens
of the empty prompt, d text width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.methods.closed_form import certified_solve, ridge
from efface.methods.closed_form.certified_solve import Problem, apart, span
from efface.methods.closed_form.ridge import PreservedTokens
from efface.models.text_gram import TextGram
from efface.settings import Settings

_CUT = 1e-3  # of the longest token: below it, a direction of what is erased is one of what is kept


class RobustConfig(Settings):
    """How to search, and what to give for it.

    Attributes:
        solve: `certified` or `uce`.
        rounds: how often to search and solve again, at most; 0 searches only to tell.
        threshold: a score below it is a concept that is back.
        derive: over which embeddings: `free`, `text`, or `none` to leave this search out.
        neighbours: how many words a round and concept; 0 leaves this search out.
        gradient: Adam steps a round and concept; 0 leaves this search out.
        images: pictures that the gradient search follows, a concept.
        seed: of their noise.
        mu: of `certified`, what preserved prompts are worth (see there).
        preserve_rank: of `certified`, how many of their leading directions to keep exactly.
        empty_cut: of `certified`, keep exactly those directions of the empty prompt that have more than this share of
            the strongest one's length.
        lamb: of `uce`, the ridge.
        preserve_scale: of `uce`, the weight of the preserved tokens.
    """

    solve: Literal["certified", "uce"] = "certified"
    rounds: int = Field(default=8, ge=0)
    threshold: float = Field(default=0.65, gt=0, lt=1)
    derive: Literal["free", "text", "none"] = "free"
    neighbours: int = Field(default=8, ge=0)
    gradient: int = Field(default=0, ge=0)
    images: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    mu: float = Field(default=100.0, ge=0)
    preserve_rank: int = Field(default=0, ge=0)
    empty_cut: float = Field(default=0.05, ge=0, lt=1)
    lamb: float = Field(default=0.1, gt=0)
    preserve_scale: float = Field(default=0.1, ge=0)


@dataclass(frozen=True, eq=False)
class Candidate:
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
class RobustProblem:
    """All that a solve reads; tokens as rows, float64.

    Attributes:
        gram: S.
        edited: C, (n, d): the last subject token of each concept, then of the words that were found.
        guides: G, (n, d): what they become.
        owner: (n,), position of the concept that a row belongs to.
        shifts: X, (m, d): what, added to a guide's token, brings a concept back.
        shift_guides: (m, d), those tokens.
        shift_owner: (m,).
        empty: the empty prompt, (T, d).
        preserved: the preserved prompts' last subject tokens.
        count: how many these are.
    """

    gram: TextGram
    edited: Tensor
    guides: Tensor
    owner: Tensor
    shifts: Tensor
    shift_guides: Tensor
    shift_owner: Tensor
    empty: Tensor
    preserved: PreservedTokens
    count: int

    @classmethod
    def of(
        cls,
        gram: TextGram,
        edited: Tensor,
        guides: Tensor,
        empty: Tensor,
        preserved: PreservedTokens,
        count: int,
    ) -> RobustProblem:
        """The problem before any search: one token (k, d) per concept."""
        owner = torch.arange(len(edited))
        none = edited[:0]
        return cls(gram, edited, guides, owner, none, none, owner[:0], empty, preserved, count)

    @property
    def concepts(self) -> int:
        """k."""
        return len(self.owner.unique())

    def with_found(self, found: Sequence[Candidate]) -> RobustProblem:
        """Words go to the concepts' guides; shifts are erased as such."""
        words = [one for one in found if one.search == "neighbours"]
        shifts = [one for one in found if one.search != "neighbours"]

        def longer(rows: Tensor, more: Sequence[Tensor]) -> Tensor:
            return torch.cat([rows, *(row[None] for row in more)])

        return replace(
            self,
            edited=longer(self.edited, [one.token for one in words]),
            guides=longer(self.guides, [one.guide for one in words]),
            owner=longer(self.owner, [torch.tensor(one.owner) for one in words]),
            shifts=longer(self.shifts, [one.token for one in shifts]),
            shift_guides=longer(self.shift_guides, [one.guide for one in shifts]),
            shift_owner=longer(self.shift_owner, [torch.tensor(one.owner) for one in shifts]),
        )

    def keeping(self, positions: Tensor) -> RobustProblem:
        """For the concepts at `positions`, sorted, and what was found for them, alone."""
        rows, found = torch.isin(self.owner, positions), torch.isin(self.shift_owner, positions)
        return replace(
            self,
            edited=self.edited[rows],
            guides=self.guides[rows],
            owner=torch.searchsorted(positions, self.owner[rows]),
            shifts=self.shifts[found],
            shift_guides=self.shift_guides[found],
            shift_owner=torch.searchsorted(positions, self.shift_owner[found]),
        )

    @classmethod
    def joined(cls, parts: Sequence[RobustProblem], preserved: PreservedTokens, count: int) -> RobustProblem:
        """For several concepts, from the inputs of each alone: their own tokens first, then what was found for them."""

        def rows(name: str, own: slice = slice(None)) -> Tensor:
            return torch.cat([getattr(part, name)[own] for part in parts])

        def owner(of_part: Sequence[Tensor]) -> Tensor:
            return torch.arange(len(parts)).repeat_interleave(torch.tensor([len(some) for some in of_part]))

        words = owner([part.edited[1:] for part in parts])
        return cls(
            gram=parts[0].gram,
            edited=torch.cat([rows("edited", slice(1)), rows("edited", slice(1, None))]),
            guides=torch.cat([rows("guides", slice(1)), rows("guides", slice(1, None))]),
            owner=torch.cat([torch.arange(len(parts)), words]),
            shifts=rows("shifts"),
            shift_guides=rows("shift_guides"),
            shift_owner=owner([part.shifts for part in parts]),
            empty=parts[0].empty,
            preserved=preserved,
            count=count,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What an eraser stores of it."""
        return {
            "edited": self.edited,
            "guides": self.guides,
            "owner": self.owner,
            "found": self.shifts,
            "found.guides": self.shift_guides,
            "found.owner": self.shift_owner,
            "empty": self.empty,
            **self.preserved.tensors(),
            "preserve.count": torch.tensor(self.count),
            "S": self.gram.matrix,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RobustProblem:
        """The inverse of `tensors`."""
        return cls(
            gram=TextGram(tensors["S"]),
            edited=tensors["edited"],
            guides=tensors["guides"],
            owner=tensors["owner"],
            shifts=tensors["found"],
            shift_guides=tensors["found.guides"],
            shift_owner=tensors["found.owner"],
            empty=tensors["empty"],
            preserved=PreservedTokens.from_tensors(tensors, tensors["empty"].shape[1]),
            count=int(tensors["preserve.count"]),
        )


def exactly_kept(of: RobustProblem, config: RobustConfig) -> Tensor:
    """Rows, (f, d), that must not move at all: the guides, and the empty prompt's strongest directions."""
    left, values, _ = torch.linalg.svd(of.gram.root @ of.empty.T, full_matrices=False)
    strong = values > config.empty_cut * values.max()
    return torch.cat([of.guides, (of.gram.inverse_root @ (left[:, strong] * values[strong])).T])


def solve(of: RobustProblem, config: RobustConfig, names: Sequence[str]) -> tuple[TextEdit, dict[str, Any]]:
    """The operator, and how many directions of what it covers and keeps.

    Raises:
        BadRequest: what is kept leaves nothing of a concept to erase.
    """
    kept = PreservedTokens.from_tensors(of.preserved.tensors(), of.empty.shape[1])
    kept.add(of.empty)
    owner = torch.cat([of.owner, of.shift_owner])
    if config.solve == "uce":
        edited, guides = torch.cat([of.edited, of.shift_guides + of.shifts]), torch.cat([of.guides, of.shift_guides])
        scales = {"erase_scale": 1.0, "preserve_scale": config.preserve_scale, "lamb": config.lamb}
        return ridge.solve(edited, guides, kept, **scales), {"edited_tokens": len(edited)}
    fixed = exactly_kept(of, config)
    problem = Problem(
        gram=of.gram,
        edited=torch.cat([of.edited, of.shifts]),
        guides=torch.cat([of.guides, nearest_kept(of.gram, of.shifts, fixed)]),
        fixed=fixed,
        preserved=kept.rows if kept.gram is None else TextGram(kept.gram).root,
        count=of.count + len(of.empty),
        asked=of.concepts,
    )
    edit, said = certified_solve.solve(
        problem, cut=_CUT, concept_rank=None, preserve_rank=config.preserve_rank, mu=config.mu
    )
    error = certified_solve.guide_error(edit, problem, owner, names)
    return edit, {"edited_tokens": len(problem.edited), **said, "guide_error": error}


def nearest_kept(gram: TextGram, tokens: Tensor, fixed: Tensor) -> Tensor:
    """Of what is spanned by the fixed tokens (f, d), the nearest to each of `tokens` (m, d) in the S norm."""
    heard = gram.root @ tokens.T
    return tokens - (gram.inverse_root @ apart(heard, span(gram.root @ fixed.T))).T
