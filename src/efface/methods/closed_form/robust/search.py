"""Searches for what brings a concept back through an edited model, in closed form; see `robust`.

Shapes: k concepts, n candidates, V words, d text width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.edits.kinds import TextEdit
from efface.errors import BadRequest
from efface.methods.closed_form.bounds import text_nearest
from efface.methods.closed_form.certified_solve import apart, changes, span
from efface.methods.closed_form.robust import gradient as robust_gradient
from efface.methods.closed_form.robust.problem import Candidate, RobustConfig, RobustProblem, exactly_kept
from efface.methods.closed_form.tokens import BATCH, Pairs, prompt_pairs, token_pairs
from efface.models.model import Model
from efface.models.tensor_cache import word_tokens
from efface.models.text_gram import TextGram
from efface.request.record import Request

_RIDGE = 1e-4  # attacks by embeddings up to some hundred times as long as the model's own
ROOM = 0.1  # share of a concept's way to its guide, below which a word is too much one of what is kept
GAIN = 0.05  # of a score: what taking out a shift must promise, since it moves other prompts too


@dataclass(frozen=True, eq=False)
class SearchResult:
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

    def picked(self, owner: int, count: int, threshold: float) -> list[Candidate]:
        """The first `count` of a concept's candidates below the threshold that can be erased."""
        rows = torch.where((self.owner == owner) & self.open & (self.scores < threshold))[0]
        first: list[int] = rows[self.scores[rows].argsort(stable=True)][:count].tolist()
        return [
            Candidate(
                owner, self.search, row, self.what[row], float(self.scores[row]), self.tokens[row], self.guides[row]
            )
            for row in first
        ]


def derive(
    edit: TextEdit, gram: TextGram, targets: Pairs, fixed: Tensor, affine: tuple[Tensor, Tensor] | None, projected: bool
) -> SearchResult:
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
    return SearchResult(
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
) -> SearchResult:
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
    return SearchResult(
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


# The searches of `robust` over one request, made ready once and run through each edit; see `robust`.


class Searches:
    """What the request's searches need of the model.

    Args:
        model: of which only the text encoder and S are used, unless there is a gradient search.
        request: what to erase.
        config: which searches, and how far.
        preserved: the preserved prompts.

    Raises:
        BadRequest: the model lacks what a search needs.
    """

    def __init__(self, model: Model, request: Request, config: RobustConfig, preserved: Sequence[str]) -> None:
        self._model, self._config, self._skip = model, config, request.clip_skip
        self.names = request.names
        pairs = [prompt_pairs(concept, False)[0] for concept in request.concepts]
        prompts, guides = tuple(prompt for prompt, _ in pairs), tuple(guide for _, guide in pairs)
        self._preserved = tuple(preserved)
        self._guides = guides
        self._targets = _targets(model, request) if config.derive != "none" else None
        self._affine = _affine(model) if config.derive == "text" else None
        self._words = model.words() if config.neighbours else ()
        if config.neighbours and not self._words:
            raise BadRequest(f"{model.name} does not tell its vocabulary; set neighbours=0.")
        self._tokens = word_tokens(model, self._words, request.clip_skip)
        spared = {prompt.strip().casefold() for prompt in (*preserved, *prompts, *guides)}
        self._closed = torch.tensor([word.casefold() in spared for word in self._words], dtype=torch.bool)
        self._paths = (
            robust_gradient.paths(model, prompts, guides, request.clip_skip, config.images, config.seed)
            if config.gradient
            else []
        )

    def run(self, edit: TextEdit, of: RobustProblem) -> list[SearchResult]:
        """All searches through one edit."""
        config, own, guides = self._config, of.edited[: of.concepts], of.guides[: of.concepts]
        projected = config.solve == "certified"
        fixed = exactly_kept(of, config) if projected else own[:0]
        seen: list[SearchResult] = []
        if self._targets is not None:
            seen.append(derive(edit, of.gram, self._targets, fixed, self._affine, projected))
        if self._words:
            seen.append(neighbours(edit, of.gram, self._words, self._tokens, own, guides, fixed, self._closed))
        if self._paths:
            seen.append(self._descended(edit, of, fixed, projected))
        return seen

    def picked(self, seen: Sequence[SearchResult]) -> list[Candidate]:
        """What to erase next; a word is picked once."""
        counts = {"neighbours": self._config.neighbours}
        found = [
            one
            for owner in range(len(self.names))
            for each in seen
            for one in each.picked(owner, counts.get(each.search, 1), self._config.threshold)
        ]
        for one in found:
            if one.search == "neighbours":
                self._closed[one.row] = True
        return found

    def _descended(self, edit: TextEdit, of: RobustProblem, fixed: Tensor, projected: bool) -> SearchResult:
        """The gradient search for each concept, from its guide towards its own token."""
        own, guides = of.edited[: of.concepts], of.guides[: of.concepts]
        found = [
            robust_gradient.search(self._model, edit, path, start, self._config.gradient)
            for path, start in zip(self._paths, own - guides, strict=True)
        ]
        shifts = torch.stack([shift for shift, _ in found])
        shifts = edit(shifts) if projected else shifts
        return SearchResult(
            search="gradient",
            scores=torch.tensor([score for _, score in found], dtype=torch.float64),
            owner=torch.arange(of.concepts),
            tokens=shifts,
            guides=guides,
            what=["a shift of all tokens"] * of.concepts,
            open=outside(of.gram, shifts, fixed) > ROOM * of.gram.norms(own - guides),
        )

    def kept(self, edit: TextEdit, of: RobustProblem) -> dict[str, Any]:
        """How far preserved prompts move, and which of what is kept brings a concept back, with a warning."""
        own, guides = of.edited[: of.concepts], of.guides[: of.concepts]
        prompts = (*self._preserved, *self._guides)
        moved: list[float] = []
        back: dict[str, dict[str, float]] = {name: {} for name in self.names}
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            tokens = self._model.last_tokens(batch, clip_skip=self._skip).double()
            moved += (of.gram.norms(edit(tokens) - tokens) / of.gram.norms(tokens)).tolist()
            for name, row in zip(self.names, word_scores(edit, of.gram, tokens, own, guides).tolist(), strict=True):
                scored = zip(batch, row, strict=True)
                back[name] |= {prompt: score for prompt, score in scored if score < self._config.threshold}
        told = changes(self._preserved, moved[: len(self._preserved)]) if self._preserved else {}
        for name, prompts in back.items():
            for prompt in prompts:
                warnings.warn(f"'{prompt}' is kept, and brings '{name}' back: robust did not erase it.", stacklevel=4)
        return {**told, "kept_that_bring_back": {name: prompts for name, prompts in back.items() if prompts}}


def _targets(model: Model, request: Request) -> Pairs:
    """Every token of the concepts' prompts, in the templates too where they fit; a memorised caption stands alone."""
    try:
        alone = any(concept.kind == "memorised" for concept in request.concepts)
        return token_pairs(model, request, "window", expand=not alone)
    except BadRequest:
        return token_pairs(model, request, "window", expand=False)


def _affine(model: Model) -> tuple[Tensor, Tensor]:
    norm = model.text_norm
    if norm is None:
        raise BadRequest(f"{model.name} reads a layer of its text encoder without a norm; set derive=free.")
    return norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double()
