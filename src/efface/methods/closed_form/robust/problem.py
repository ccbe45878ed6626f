"""The settings and the problem of `robust`, and its two solvers; see `method`.

Shapes: k concepts, n edited tokens (those of the concepts, then the words that the search found), m shifts that the
search found, T tokens of the empty prompt, d text width.
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
from efface.methods.closed_form.certified_solve import Problem, orthogonal_part, orthonormal_span
from efface.methods.closed_form.ridge import PreservedTokens
from efface.models.text_gram import TextGram
from efface.settings import Settings

_CUT = (
    1e-3  # share of the longest token; an erased direction is left alone if less of it is outside of the fixed tokens
)


class RobustConfig(Settings):
    """Settings of the search and of the solvers.

    Attributes:
        solve: The solver, `certified` or `uce`.
        rounds: The largest number of times to search and solve again; with 0 the search is only recorded.
        threshold: The score below which a concept counts as restored.
        derive: The embeddings of the search `derive`: `free`, `text`, or `none` to turn it off.
        neighbours: The number of words to erase per round and concept; 0 turns this search off.
        gradient: The steps of Adam per round and concept; 0 turns this search off.
        images: The images of each concept that the gradient search follows.
        seed: The seed of their noise.
        mu: For `certified`, the weight of the preserved prompts (see there).
        preserve_rank: For `certified`, the number of their leading directions to preserve exactly.
        empty_cut: For `certified`, the share of the strongest direction's length above which a direction of the empty
            prompt is preserved exactly.
        lamb: For `uce`, the ridge.
        preserve_scale: For `uce`, the weight of the preserved tokens.
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
    """A result of a search to erase: the token of a word, or a shift from a guide's token.

    Attributes:
        owner: The position of the concept that it restores.
        search: The name of the search that found it.
        row: Its position among the candidates of that search.
        what: A description.
        score: The score before it is erased.
        token: The token or the shift, (d,).
        guide: The guide's token, (d,).
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
    """The inputs of a solve; tokens as rows, float64.

    Attributes:
        gram: The matrix S.
        edited: The tokens C, (n, d): the last subject token of each concept, then of each word that the search found.
        guides: Their guides G, (n, d).
        owner: The position of the concept of each row, (n,).
        shifts: The shifts X, (m, d), each of which restores a concept when it is added to a guide's token.
        shift_guides: The guides' tokens of the shifts, (m, d).
        shift_owner: The position of the concept of each shift, (m,).
        empty: The tokens of the empty prompt, (T, d).
        preserved: The last subject tokens of the preserved prompts.
        count: The number of preserved prompts.
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
        """The problem before any search, with one token per concept.

        Args:
            gram: The matrix S.
            edited: The tokens C of the concepts, (k, d).
            guides: Their guides G, (k, d).
            empty: The tokens of the empty prompt, (T, d).
            preserved: The last subject tokens of the preserved prompts.
            count: The number of preserved prompts.
        """
        owner = torch.arange(len(edited))
        none = edited[:0]
        return cls(gram, edited, guides, owner, none, none, owner[:0], empty, preserved, count)

    @property
    def concepts(self) -> int:
        """The number of concepts k."""
        return len(self.owner.unique())

    def with_candidates(self, candidates: Sequence[Candidate]) -> RobustProblem:
        """The problem with candidates added: words are edited towards the guides, shifts are removed from the range."""
        words = [one for one in candidates if one.search == "neighbours"]
        shifts = [one for one in candidates if one.search != "neighbours"]

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
        """The problem of the concepts at `positions`, (k,), sorted, and of their candidates."""
        rows, shift_rows = torch.isin(self.owner, positions), torch.isin(self.shift_owner, positions)
        return replace(
            self,
            edited=self.edited[rows],
            guides=self.guides[rows],
            owner=torch.searchsorted(positions, self.owner[rows]),
            shifts=self.shifts[shift_rows],
            shift_guides=self.shift_guides[shift_rows],
            shift_owner=torch.searchsorted(positions, self.shift_owner[shift_rows]),
        )

    @classmethod
    def joined(cls, parts: Sequence[RobustProblem], preserved: PreservedTokens, count: int) -> RobustProblem:
        """The problem of several concepts, from the problem of each one: first their tokens, then their words.

        Args:
            parts: The problem of each concept.
            preserved: The last subject tokens of the preserved prompts.
            count: The number of preserved prompts.
        """

        def rows(name: str, of_part: slice = slice(None)) -> Tensor:
            return torch.cat([getattr(part, name)[of_part] for part in parts])

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
        """The tensors that an eraser stores, by name."""
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


def fixed_rows(problem: RobustProblem, config: RobustConfig) -> Tensor:
    """The rows, (f, d), that must not change: the guides, and the strongest directions of the empty prompt."""
    left, values, _ = torch.linalg.svd(problem.gram.root @ problem.empty.T, full_matrices=False)
    strong = values > config.empty_cut * values.max()
    return torch.cat([problem.guides, (problem.gram.inverse_root @ (left[:, strong] * values[strong])).T])


def solve_robust(problem: RobustProblem, config: RobustConfig, names: Sequence[str]) -> tuple[TextEdit, dict[str, Any]]:
    """Solve by the chosen solver.

    Args:
        problem: The problem.
        config: The settings.
        names: The concepts.

    Returns:
        The edit, and the numbers of tokens and directions that it covers and preserves, by name.

    Raises:
        BadRequest: The preserved tokens leave nothing of a concept to erase.
    """
    preserved = PreservedTokens.from_tensors(problem.preserved.tensors(), problem.empty.shape[1])
    preserved.add(problem.empty)
    owner = torch.cat([problem.owner, problem.shift_owner])
    if config.solve == "uce":
        edited = torch.cat([problem.edited, problem.shift_guides + problem.shifts])
        guides = torch.cat([problem.guides, problem.shift_guides])
        scales = {"erase_scale": 1.0, "preserve_scale": config.preserve_scale, "lamb": config.lamb}
        return ridge.solve_ridge(edited, guides, preserved, **scales), {"edited_tokens": len(edited)}
    fixed = fixed_rows(problem, config)
    certified = Problem(
        gram=problem.gram,
        edited=torch.cat([problem.edited, problem.shifts]),
        guides=torch.cat([problem.guides, nearest_in_span(problem.gram, problem.shifts, fixed)]),
        fixed=fixed,
        preserved=preserved.rows if preserved.gram is None else TextGram(preserved.gram).root,
        count=problem.count + len(problem.empty),
        asked=problem.concepts,
    )
    edit, coverage = certified_solve.solve_certified(
        certified, cut=_CUT, concept_rank=None, preserve_rank=config.preserve_rank, mu=config.mu
    )
    error = certified_solve.guide_error(edit, certified, owner, names)
    return edit, {"edited_tokens": len(certified.edited), **coverage, "guide_error": error}


def nearest_in_span(gram: TextGram, tokens: Tensor, fixed: Tensor) -> Tensor:
    """The vectors in the span of the fixed tokens that are nearest to the given tokens in the S norm.

    Args:
        gram: The matrix S.
        tokens: The tokens, (m, d).
        fixed: The fixed tokens, (f, d).

    Returns:
        One vector per token, (m, d).
    """
    heard = gram.root @ tokens.T
    return tokens - (gram.inverse_root @ orthogonal_part(heard, orthonormal_span(gram.root @ fixed.T))).T
