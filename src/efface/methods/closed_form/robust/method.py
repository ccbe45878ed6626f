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
from typing import Any, Literal

import torch
from pydantic import Field

from efface.edits.kinds import TextEdit
from efface.eraser.eraser import Eraser
from efface.errors import BadRequest
from efface.methods.base import Method
from efface.methods.closed_form.bounds import free_residuals
from efface.methods.closed_form.ridge import Kept
from efface.methods.closed_form.robust.search import Found, Searches, Seen
from efface.methods.closed_form.robust.solve import Inputs, solve
from efface.methods.closed_form.stored import first_with, joined_kept
from efface.methods.closed_form.tokens import BATCH, base_of, only_erases, provenance, token_pairs
from efface.models.model import Model
from efface.models.text_gram import text_gram
from efface.request.record import Request
from efface.settings import Settings


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


def erase(model: Model, request: Request, config: RobustConfig) -> Eraser:
    """Search and solve until nothing is found."""
    only_erases(request)
    if not model.one_clip_encoder:
        raise BadRequest(
            f"robust knows Stable Diffusion 1 and 2, not {model.name}; take certified, which knows any model."
        )
    started = time.perf_counter()
    pairs = token_pairs(model, request)
    preserve = _preserved(request)
    kept = Kept(model.width)
    for first in range(0, len(preserve), BATCH):
        kept.add(model.last_tokens(preserve[first : first + BATCH], clip_skip=request.clip_skip))
    empty = model.embed([""], clip_skip=request.clip_skip).tokens[0].double()
    of = Inputs.of(text_gram(model), pairs.edited, pairs.guides, empty, kept, len(preserve))
    searches = Searches(model, request, config, preserve)
    solving = time.perf_counter()
    edit, said = solve(of, config, request.names)
    seen = searches.run(edit, of)
    rounds = [_round(request, of, edit, [], seen)]
    for _ in range(config.rounds):
        found = searches.picked(seen)
        if not found:
            break
        of = of.with_found(found)
        edit, said = solve(of, config, request.names)
        seen = searches.run(edit, of)
        rounds.append(_round(request, of, edit, found, seen))
    told = provenance(config.model_dump(), started, solving)
    told |= {"coverage": said | searches.kept(edit, of), "search": rounds}
    return Eraser(request, (edit,), base_of(model, pairs.embedded), of.tensors(), told)


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts and of what was found for them, solved again from what it stored."""
    request = eraser.request.keeping(names)
    positions = torch.tensor([eraser.concepts.index(name) for name in request.names])
    return _replayed(eraser, request, Inputs.from_tensors(eraser.inputs).keeping(positions), [eraser])


def together(erasers: Sequence[Eraser], request: Request) -> Eraser:
    """The eraser of all concepts of several, and of what was found for each, solved again; nothing is searched anew."""
    parts: list[Inputs] = []
    for name in request.names:
        eraser = first_with(name, erasers)
        parts.append(Inputs.from_tensors(eraser.inputs).keeping(torch.tensor([eraser.concepts.index(name)])))
    preserved = Kept.from_tensors(joined_kept(erasers, request, _preserved), len(parts[0].gram.matrix))
    return _replayed(erasers[0], request, Inputs.joined(parts, preserved, len(_preserved(request))), erasers)


def _replayed(like: Eraser, request: Request, of: Inputs, erasers: Sequence[Eraser]) -> Eraser:
    """The eraser that `of` makes, with the settings of `like`, and what the searches of `erasers` found for it."""
    edit, said = solve(of, RobustConfig.model_validate(like.provenance["settings"]), request.names)
    # What the searches measured was of another operator; what they found is still true.
    found = [
        [
            one
            for one in of_round["found"]
            if one["concept"] in request.names and first_with(one["concept"], erasers) is eraser
        ]
        for eraser in erasers
        for of_round in eraser.provenance["search"]
    ]
    rounds = [{"found": of_round} for of_round in found if of_round]
    told = {**like.provenance, "coverage": said, "search": rounds}
    return Eraser(request, (edit,), like.base, of.tensors(), told)


def _preserved(request: Request) -> list[str]:
    """The preserved prompts but the empty one, which is kept in any case."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _round(
    request: Request, of: Inputs, edit: TextEdit, found: Sequence[Found], seen: Sequence[Seen]
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
    only=only,
    together=together,
)
