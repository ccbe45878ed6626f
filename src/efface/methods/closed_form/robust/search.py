"""The searches for embeddings that restore a concept through an edited model; see `method`.

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
from efface.methods.closed_form.certified_solve import changes, orthogonal_part, orthonormal_span
from efface.methods.closed_form.robust import gradient as robust_gradient
from efface.methods.closed_form.robust.problem import Candidate, RobustConfig, RobustProblem, fixed_rows
from efface.methods.closed_form.tokens import BATCH, Pairs, prompt_pairs, token_pairs
from efface.models.model import Model
from efface.models.tensor_cache import word_tokens
from efface.models.text_gram import TextGram
from efface.request.record import Request

_RIDGE = 1e-4  # allows embeddings up to some hundred times as long as those of the model
ROOM = 0.1  # share of the distance from a concept to its guide; below it, a word is too close to the fixed tokens
GAIN = 0.05  # least increase of a score for which a shift is removed, since that changes other prompts too


@dataclass(frozen=True, eq=False)
class ScoredCandidates:
    """The candidates of a search and their scores.

    Attributes:
        search: The name of the search.
        scores: The scores, (n,): 0 if the concept is restored, 1 at its guide.
        owner: The position of the concept of each candidate, (n,).
        tokens: The tokens or shifts to erase, (n, d).
        guides: The tokens of the guides, (n, d).
        what: A description of each candidate.
        open: Whether each candidate may be erased and can be erased, (n,).
    """

    search: str
    scores: Tensor
    owner: Tensor
    tokens: Tensor
    guides: Tensor
    what: Sequence[str]
    open: Tensor

    def best(self, owner: int) -> float | None:
        """The lowest score among the candidates of a concept; None if there are none."""
        of_one = self.scores[self.owner == owner]
        return float(of_one.min()) if len(of_one) else None

    def picked(self, owner: int, count: int, threshold: float) -> list[Candidate]:
        """Choose the candidates of a concept to erase.

        Args:
            owner: The position of the concept.
            count: The largest number of candidates.
            threshold: The score below which a candidate is chosen.
        """
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
) -> ScoredCandidates:
    """For each token c of the prompts with the concept, the embedding that best restores it.

    With g the token of the same prompt with the guide:

        e = argmin_e |M e - c'|_S^2 + ridge |e|_S^2,   c' = c - g + M g,   score |M e - c'|_S / |c - g|_S

    over all e, or with `affine` over the embeddings that the text encoder can produce. The shift to erase is e - g; for
    a projection M it is M e - M g, which M does not change.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        targets: The tokens c and g, (n, d) each.
        fixed: The tokens that must not change, (f, d).
        affine: The weight and the bias of the text encoder's last LayerNorm, (d,) each; None for all embeddings.
        projected: Whether M is a projection.
    """
    aims = targets.edited - targets.guides + edit(targets.guides)
    embeddings = nearest_preimages(edit, gram, aims) if affine is None else text_nearest(edit, gram, aims, *affine)
    sizes = gram.norms(targets.edited - targets.guides)
    shifts = embeddings - targets.guides
    shifts = edit(shifts) if projected else shifts
    real = sizes > 1e-6 * sizes.max()  # equal tokens of both prompts need no erasing
    scores = torch.where(real, gram.norms(edit(embeddings) - aims) / sizes, torch.inf)
    prompts = [targets.embedded.prompts[row] for row in targets.prompt.tolist()]
    return ScoredCandidates(
        search="derive",
        scores=scores,
        owner=targets.owner,
        tokens=shifts,
        guides=targets.guides,
        what=[f"a token of '{prompt}'" for prompt in prompts],
        open=is_worthwhile(gram, shifts, fixed, scores, sizes) if projected else real,
    )


def is_worthwhile(gram: TextGram, shifts: Tensor, fixed: Tensor, scores: Tensor, sizes: Tensor) -> Tensor:
    """Whether removing each shift from the range can increase its score by GAIN.

    The part of a shift outside of the fixed tokens is orthogonal to the current residual, so the new score is at most
    the root of the sum of both squares.

    Args:
        gram: The matrix S.
        shifts: The shifts, (n, d).
        fixed: The tokens that must not change, (f, d).
        scores: The current scores, (n,).
        sizes: The norms that the scores are relative to, (n,).

    Returns:
        Booleans, (n,).
    """
    room = norms_outside(gram, shifts, fixed) / sizes
    return torch.hypot(scores, room) > scores + GAIN


def norms_outside(gram: TextGram, tokens: Tensor, fixed: Tensor) -> Tensor:
    """The S norm of the part of each token outside of the span of the fixed tokens.

    Args:
        gram: The matrix S.
        tokens: The tokens, (n, d).
        fixed: The fixed tokens, (f, d).

    Returns:
        The norms, (n,).
    """
    return orthogonal_part(gram.root @ tokens.T, orthonormal_span(gram.root @ fixed.T)).norm(dim=0)


def nearest_preimages(edit: TextEdit, gram: TextGram, aims: Tensor) -> Tensor:
    """argmin_e |M e - aim|_S^2 + ridge |e|_S^2 for each aim, in coordinates where the S norm is Euclidean.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        aims: The aims, (n, d).

    Returns:
        One embedding per aim, (n, d).
    """
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
) -> ScoredCandidates:
    """Score each word v, as a prompt, by its distance from a concept c in the edited model.

        score |M v - c|_S / |c - g|_S;   each word belongs to the concept with the lowest score.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        words: The V words.
        tokens: Their last subject tokens, (V, d).
        concepts: The concepts' tokens c, (k, d).
        guides: The guides' tokens g, (k, d).
        fixed: The tokens that must not change, (f, d); no rows if none are preserved exactly.
        closed: Whether each word must not be erased, (V,).
    """
    scores = word_scores(edit, gram, tokens, concepts, guides)
    best, owner = scores.min(dim=0)
    room = norms_outside(gram, tokens.double(), fixed)
    return ScoredCandidates(
        search="neighbours",
        scores=best,
        owner=owner,
        tokens=tokens.double(),
        guides=guides[owner],
        what=words,
        open=~closed & (room > ROOM * gram.norms(concepts - guides)[owner]),
    )


def word_scores(edit: TextEdit, gram: TextGram, tokens: Tensor, concepts: Tensor, guides: Tensor) -> Tensor:
    """The scores |M v - c|_S / |c - g|_S.

    Args:
        edit: The edit, M - I.
        gram: The matrix S.
        tokens: The tokens v, (n, d).
        concepts: The concepts' tokens c, (k, d).
        guides: The guides' tokens g, (k, d).

    Returns:
        The scores of each token for each concept, (k, n).
    """
    seen = (gram.root + (gram.root @ edit.left) @ edit.right.T) @ tokens.double().T
    distances = torch.cdist(concepts @ gram.root.T, seen.T, compute_mode="donot_use_mm_for_euclid_dist")
    return distances / gram.norms(concepts - guides)[:, None]


class Searches:
    """All searches of a request. They are prepared once and run for each edit.

    Args:
        model: The model. Only the text encoder and S are used, unless there is a gradient search.
        request: The concepts.
        config: The settings, which select the searches.
        preserved: The preserved prompts.

    Raises:
        BadRequest: The model does not support a search.
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
            raise BadRequest(f"The vocabulary of {model.name} is unknown; set neighbours=0.")
        self._tokens = word_tokens(model, self._words, request.clip_skip)
        spared = {prompt.strip().casefold() for prompt in (*preserved, *prompts, *guides)}
        self._closed = torch.tensor([word.casefold() in spared for word in self._words], dtype=torch.bool)
        self._paths = (
            robust_gradient.denoising_paths(model, prompts, guides, request.clip_skip, config.images, config.seed)
            if config.gradient
            else []
        )

    def run(self, edit: TextEdit, problem: RobustProblem) -> list[ScoredCandidates]:
        """Run all searches for one edit."""
        config, concepts, guides = self._config, problem.edited[: problem.concepts], problem.guides[: problem.concepts]
        projected = config.solve == "certified"
        fixed = fixed_rows(problem, config) if projected else concepts[:0]
        results: list[ScoredCandidates] = []
        if self._targets is not None:
            results.append(derive(edit, problem.gram, self._targets, fixed, self._affine, projected))
        if self._words:
            results.append(
                neighbours(edit, problem.gram, self._words, self._tokens, concepts, guides, fixed, self._closed)
            )
        if self._paths:
            results.append(self._descended(edit, problem, fixed, projected))
        return results

    def picked(self, results: Sequence[ScoredCandidates]) -> list[Candidate]:
        """Choose the candidates to erase next. Each word is chosen at most once."""
        counts = {"neighbours": self._config.neighbours}
        candidates = [
            candidate
            for owner in range(len(self.names))
            for result in results
            for candidate in result.picked(owner, counts.get(result.search, 1), self._config.threshold)
        ]
        for candidate in candidates:
            if candidate.search == "neighbours":
                self._closed[candidate.row] = True
        return candidates

    def _descended(self, edit: TextEdit, problem: RobustProblem, fixed: Tensor, projected: bool) -> ScoredCandidates:
        """The gradient search for each concept, which starts with the shift from its guide to its token."""
        concepts, guides = problem.edited[: problem.concepts], problem.guides[: problem.concepts]
        results = [
            robust_gradient.search_shift(self._model, edit, path, start, self._config.gradient)
            for path, start in zip(self._paths, concepts - guides, strict=True)
        ]
        shifts = torch.stack([shift for shift, _ in results])
        shifts = edit(shifts) if projected else shifts
        return ScoredCandidates(
            search="gradient",
            scores=torch.tensor([score for _, score in results], dtype=torch.float64),
            owner=torch.arange(problem.concepts),
            tokens=shifts,
            guides=guides,
            what=["a shift of all tokens"] * problem.concepts,
            open=norms_outside(problem.gram, shifts, fixed) > ROOM * problem.gram.norms(concepts - guides),
        )

    def preserved_changes(self, edit: TextEdit, problem: RobustProblem) -> dict[str, Any]:
        """Measure the changes of preserved prompts, and warn of preserved prompts and guides that restore a concept."""
        concepts, guides = problem.edited[: problem.concepts], problem.guides[: problem.concepts]
        prompts = (*self._preserved, *self._guides)
        moved: list[float] = []
        restoring: dict[str, dict[str, float]] = {name: {} for name in self.names}
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            tokens = self._model.last_tokens(batch, clip_skip=self._skip).double()
            moved += (problem.gram.norms(edit(tokens) - tokens) / problem.gram.norms(tokens)).tolist()
            for name, row in zip(
                self.names, word_scores(edit, problem.gram, tokens, concepts, guides).tolist(), strict=True
            ):
                scored = zip(batch, row, strict=True)
                restoring[name] |= {prompt: score for prompt, score in scored if score < self._config.threshold}
        summary = changes(self._preserved, moved[: len(self._preserved)]) if self._preserved else {}
        for name, prompts in restoring.items():
            for prompt in prompts:
                warnings.warn(f"'{prompt}' is preserved, but restores '{name}'; robust did not erase it.", stacklevel=4)
        return {**summary, "kept_that_bring_back": {name: prompts for name, prompts in restoring.items() if prompts}}


def _targets(model: Model, request: Request) -> Pairs:
    """All tokens of the concepts' prompts; the templates are included if they fit and no concept is memorised."""
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
