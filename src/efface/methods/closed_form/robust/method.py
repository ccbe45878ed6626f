"""Robust: searches for embeddings that restore a concept in the edited model, erases them too, and repeats.

(a) Three searches look for embeddings that the edited model reads as the concept. Each candidate has a score from 0
(the
    concept is restored) to 1 (no nearer to the concept than its guide):
    - `derive`: in closed form, the embedding that best restores each token of several prompts with the concept; among
      all embeddings (`free`, as in RECE), or among those that the text encoder can produce (`text`);
    - `neighbours`: all words that are one token of the vocabulary. It finds "kitten" for "cat" without a list.
    - `gradient`: Adam on the denoising loss along the model's own sampling of the concept (see `gradient`). Only this
      search needs the denoiser. It is off by default.
(b) Candidates with a score below `threshold` are appended to the edited tokens, and everything is solved again. This
    repeats until no search finds a candidate, or all rounds are used. The result is one text edit.

Two solvers:
- `certified` (see there) is singular. Words are mapped to the guide exactly. A shift x = M e - M g that restores the
  concept's token is removed from the range: it is mapped to the nearest vector, in the S norm, among the exactly
  preserved ones, which changes other tokens least. No further vector has to be preserved exactly for this. So the range
  shrinks in each round, no embedding comes as near as before, and a concept's certificate does not decrease.
- `uce`, the ridge regression, maps each candidate to its guide. It is invertible, so the concept can always be
  restored.

The vectors that are preserved exactly limit how much can be erased. Here these are the guides and only the strongest
directions of the empty prompt (above `empty_cut`). Its other directions and the preserved prompts are preserved
approximately, with weight `mu`. A preserved prompt, a guide or another concept is never erased as a neighbour. If one
of them restores a concept, the eraser records it and warns.

Limits: the searches miss prompts of several tokens of which none names the concept, images that do not depend on the
concept's own keys and values (only `gradient` finds some of these), and changed weights.

Sources: the method is efface's own. The loop follows RECE (https://arxiv.org/abs/2407.12383). STEREO
(https://arxiv.org/abs/2408.16807), in contrast, searches first and then erases once.

Cost: the words pass through the text encoder once (3,000 words for the embedded model, 36,000 for Stable Diffusion 1.4,
two tokens each). A round is one solve in d dimensions and one product of size words x d x d.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from efface.edits.kinds import TextEdit
from efface.edits.solution import Solution
from efface.methods.base import Method
from efface.methods.closed_form.bounds import free_residuals
from efface.methods.closed_form.ridge import PreservedTokens
from efface.methods.closed_form.robust.problem import Candidate, RobustConfig, RobustProblem, solve_robust
from efface.methods.closed_form.robust.search import ScoredCandidates, Searches
from efface.methods.closed_form.stored import first_with, stored_preserved
from efface.methods.closed_form.tokens import BATCH, token_pairs
from efface.models.model import Model
from efface.models.text_gram import text_gram
from efface.request.record import Request


def erase(model: Model, request: Request, config: RobustConfig) -> Solution:
    """Solve and search until no search finds a candidate.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.

    Raises:
        BadRequest: The preserved prompts leave nothing of a concept to erase, or the model does not support a search.
    """
    pairs = token_pairs(model, request)
    prompts = _preserved(request)
    preserved = PreservedTokens(model.width)
    for first in range(0, len(prompts), BATCH):
        preserved.add(model.last_tokens(prompts[first : first + BATCH], clip_skip=request.clip_skip))
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0].double()
    problem = RobustProblem.of(text_gram(model), pairs.edited, pairs.guides, empty, preserved, len(prompts))
    searches = Searches(model, request, config, prompts)
    started = time.perf_counter()
    edit, coverage = solve_robust(problem, config, request.names)
    results = searches.run(edit, problem)
    rounds = [_round(request, problem, edit, [], results)]
    for _ in range(config.rounds):
        candidates = searches.picked(results)
        if not candidates:
            break
        problem = problem.with_candidates(candidates)
        edit, coverage = solve_robust(problem, config, request.names)
        results = searches.run(edit, problem)
        rounds.append(_round(request, problem, edit, candidates, results))
    notes = {
        "settings": config.model_dump(),
        "coverage": coverage | searches.preserved_changes(edit, problem),
        "search": rounds,
    }
    return Solution(request, (edit,), problem.tensors(), notes, pairs.embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts and of their candidates, solved again without a new search.

    It differs from the solution of a new request, which would search for these concepts alone.

    Raises:
        CannotCombine: The parts preserve different prompts, and of many only the sum is stored.
    """
    problems: list[RobustProblem] = []
    for name in request.names:
        part = first_with(name, parts)
        position = torch.tensor([part.concepts.index(name)])
        problems.append(RobustProblem.from_tensors(part.inputs).keeping(position))
    width = len(problems[0].gram.matrix)
    preserved = PreservedTokens.from_tensors(stored_preserved(parts, request, width, _preserved), width)
    problem = RobustProblem.joined(problems, preserved, len(_preserved(request)))
    edit, coverage = solve_robust(problem, RobustConfig.model_validate(request.options), request.names)
    # The measured scores belong to another operator, so only the candidates are recorded.
    rounds = [
        [
            candidate
            for candidate in of_round["found"]
            if candidate["concept"] in request.names and first_with(candidate["concept"], parts) is part
        ]
        for part in parts
        for of_round in part.notes["search"]
    ]
    search = [{"found": candidates} for candidates in rounds if candidates]
    notes = {**parts[0].notes, "coverage": coverage, "search": search}
    return Solution(request, (edit,), problem.tensors(), notes)


def _preserved(request: Request) -> list[str]:
    """The preserved prompts except the empty one, which is always preserved."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _round(
    request: Request,
    problem: RobustProblem,
    edit: TextEdit,
    candidates: Sequence[Candidate],
    results: Sequence[ScoredCandidates],
) -> dict[str, Any]:
    """The record of a round: the candidates that it erased, and the best scores of the searches after it."""
    after = {result.search: result.scores for result in results}
    concepts = problem.edited[: problem.concepts]
    free = free_residuals(edit, problem.gram, concepts) / problem.gram.norms(concepts)
    return {
        "found": [
            {
                "concept": request.names[one.owner],
                "search": one.search,
                "what": one.what,
                "score_before": one.score,
                "score_after": float(after[one.search][one.row]),
            }
            for one in candidates
        ],
        "nearest": {
            name: {result.search: result.best(owner) for result in results} for owner, name in enumerate(request.names)
        },
        "free": dict(zip(request.names, free.tolist(), strict=True)),
        "rank": edit.rank,
    }


ENTRY = Method(
    name="robust",
    summary="Searches for words and embeddings that restore a concept, erases them too, and repeats.",
    paper="none: efface's own",
    repository="none: efface's own",
    edit="text",
    config=RobustConfig,
    erase=erase,
    combine=combine,
    families=("sd",),
)
