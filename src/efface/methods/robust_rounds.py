"""The searches of `robust` over one request, made ready once and run through each edit; see `robust`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.edits import TextEdit
from efface.errors import BadRequest
from efface.methods import robust_gradient
from efface.methods.certified_solve import changes
from efface.methods.robust_search import ROOM, Found, Seen, derive, neighbours, outside, word_scores
from efface.methods.robust_solve import Inputs, exactly_kept
from efface.methods.tokens import BATCH, Pairs, prompt_pairs, token_pairs
from efface.models.base import Model
from efface.models.word_tokens import word_tokens
from efface.request import Request

if TYPE_CHECKING:
    from efface.methods.robust import RobustConfig


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

    def run(self, edit: TextEdit, of: Inputs) -> list[Seen]:
        """All searches through one edit."""
        config, own, guides = self._config, of.edited[: of.concepts], of.guides[: of.concepts]
        projected = config.solve == "certified"
        fixed = exactly_kept(of, config) if projected else own[:0]
        seen: list[Seen] = []
        if self._targets is not None:
            seen.append(derive(edit, of.gram, self._targets, fixed, self._affine, projected))
        if self._words:
            seen.append(neighbours(edit, of.gram, self._words, self._tokens, own, guides, fixed, self._closed))
        if self._paths:
            seen.append(self._descended(edit, of, fixed, projected))
        return seen

    def picked(self, seen: Sequence[Seen]) -> list[Found]:
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

    def _descended(self, edit: TextEdit, of: Inputs, fixed: Tensor, projected: bool) -> Seen:
        """The gradient search for each concept, from its guide towards its own token."""
        own, guides = of.edited[: of.concepts], of.guides[: of.concepts]
        found = [
            robust_gradient.search(self._model, edit, path, start, self._config.gradient)
            for path, start in zip(self._paths, own - guides, strict=True)
        ]
        shifts = torch.stack([shift for shift, _ in found])
        shifts = edit(shifts) if projected else shifts
        return Seen(
            search="gradient",
            scores=torch.tensor([score for _, score in found], dtype=torch.float64),
            owner=torch.arange(of.concepts),
            tokens=shifts,
            guides=guides,
            what=["a shift of all tokens"] * of.concepts,
            open=outside(of.gram, shifts, fixed) > ROOM * of.gram.norms(own - guides),
        )

    def kept(self, edit: TextEdit, of: Inputs) -> dict[str, Any]:
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
