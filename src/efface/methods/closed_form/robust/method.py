"""Robust: search for what brings the concept back through the edited model, erase that too, and again.

(a) Three searches look for embeddings that the edited model reads as the concept, each scored from 0 (the concept is
    back) to 1 (no nearer than its guide):
    - `derive`: in closed form, for every token of several prompts with the concept, the embedding that best restores
      it; over all embeddings (`free`, as RECE does), or over what the text encoder's last norm lets through (`text`);
    - `neighbours`: all words that are one token of the vocabulary: it finds "kitten" for "cat" without being told;
    - `gradient`: Adam on the denoising loss along the model's own paths to the concept (`robust_gradient`). It alone
      needs the denoiser, and is off by default.
(b) What scores below `threshold` is appended to what is edited, and everything is solved anew. Until no search finds
    anything, or the rounds are used up. The result is one text edit.

Two ways to solve:
- `certified` (see there) is singular. Words go to the guide exactly. A shift x = M e - M g that restores the concept's
  token is taken out of the range: it becomes the nearest, in the S norm, of what is kept exactly, which moves the rest
  least. Nothing more is kept exactly for its sake, so the range shrinks round by round, no embedding comes as near
  again as before, and a concept's certificate does not fall.
- `uce`, the ridge: what was found is sent to its guide. It is invertible, so there is always something left to find.

What is kept exactly decides how much can be erased. Here it is the guides and only the strongest directions of the
empty prompt (above `empty_cut`); the rest of it, and the preserved prompts, are kept as far as it is worth it (`mu`). A
preserved prompt, a guide or another concept is never erased as a neighbour; one that brings a concept back is told of.

What it does not see: prompts of several tokens with no telling word among them, pictures that are built without the
concept's own keys and values (of these only `gradient` sees some), and changed weights. It is efface's own, after RECE
(https://arxiv.org/abs/2407.12383), whose loop this is, and STEREO (https://arxiv.org/abs/2408.16807), which searches
first and then erases once.

Cost: the words pass through a text encoder once for all (3,000 of the embedded model, 36,000 of Stable Diffusion 1.4,
two tokens each), a round is one solve in d dimensions and one product words x d x d.
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
from efface.methods.closed_form.robust.problem import Candidate, RobustConfig, RobustProblem, solve
from efface.methods.closed_form.robust.search import Searches, SearchResult
from efface.methods.closed_form.stored import first_with, stored_preserved
from efface.methods.closed_form.tokens import BATCH, token_pairs
from efface.models.model import Model
from efface.models.text_gram import text_gram
from efface.request.record import Request


def erase(model: Model, request: Request, config: RobustConfig) -> Solution:
    """Search and solve until nothing is found."""
    pairs = token_pairs(model, request)
    prompts = _preserved(request)
    preserved = PreservedTokens(model.width)
    for first in range(0, len(prompts), BATCH):
        preserved.add(model.last_tokens(prompts[first : first + BATCH], clip_skip=request.clip_skip))
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0].double()
    problem = RobustProblem.of(text_gram(model), pairs.edited, pairs.guides, empty, preserved, len(prompts))
    searches = Searches(model, request, config, prompts)
    started = time.perf_counter()
    edit, coverage = solve(problem, config, request.names)
    results = searches.run(edit, problem)
    rounds = [_round(request, problem, edit, [], results)]
    for _ in range(config.rounds):
        candidates = searches.picked(results)
        if not candidates:
            break
        problem = problem.with_found(candidates)
        edit, coverage = solve(problem, config, request.names)
        results = searches.run(edit, problem)
        rounds.append(_round(request, problem, edit, candidates, results))
    notes = {
        "settings": config.model_dump(),
        "coverage": coverage | searches.kept(edit, problem),
        "search": rounds,
    }
    return Solution(request, (edit,), problem.tensors(), notes, pairs.embedded, time.perf_counter() - started)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts and of what was found for each, solved again; nothing is searched anew.

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
    edit, coverage = solve(problem, RobustConfig.model_validate(request.options), request.names)
    # The scores that the searches measured belong to another operator; what they found still holds.
    found = [
        [
            candidate
            for candidate in of_round["found"]
            if candidate["concept"] in request.names and first_with(candidate["concept"], parts) is part
        ]
        for part in parts
        for of_round in part.notes["search"]
    ]
    rounds = [{"found": of_round} for of_round in found if of_round]
    notes = {**parts[0].notes, "coverage": coverage, "search": rounds}
    return Solution(request, (edit,), problem.tensors(), notes)


def _preserved(request: Request) -> list[str]:
    """The preserved prompts but the empty one, which is kept in any case."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _round(
    request: Request, of: RobustProblem, edit: TextEdit, found: Sequence[Candidate], seen: Sequence[SearchResult]
) -> dict[str, Any]:
    """What a round found and erased, and how near the searches come after it."""
    after = {each.search: each.scores for each in seen}
    own = of.edited[: of.concepts]
    free = free_residuals(edit, of.gram, own) / of.gram.norms(own)
    return {
        "found": [
            {
                "concept": request.names[one.owner],
                "search": one.search,
                "what": one.what,
                "score_before": one.score,
                "score_after": float(after[one.search][one.row]),
            }
            for one in found
        ],
        "nearest": {name: {each.search: each.best(owner) for each in seen} for owner, name in enumerate(request.names)},
        "free": dict(zip(request.names, free.tolist(), strict=True)),
        "rank": edit.rank,
    }


METHOD = Method(
    name="robust",
    summary="Searches for what brings a concept back (words, embeddings), erases that too, and again.",
    paper="none: efface's own",
    repository="none: efface's own",
    edit="text",
    config=RobustConfig,
    erase=erase,
    combine=combine,
    families=("sd",),
)
