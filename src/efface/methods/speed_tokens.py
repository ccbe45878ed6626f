"""The tokens that SPEED solves for: targets, anchors, what is retained, and what must not move at all.

Shapes: n edited tokens, N retained, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.eraser import Eraser
from efface.methods.together import Apart, by_prompt
from efface.methods.tokens import BATCH, prompt_pairs
from efface.models.base import Embedded, Model
from efface.request import Request

RETAINED = ("retained", "retained.count")  # what an eraser stores of them
_CENTRES = 3
_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class SpeedTokens:
    """What a solve needs of the text.

    Attributes:
        edited: C, (n, d), float64.
        guides: A, (n, d), float64.
        owner: (n,), position of the concept that a token belongs to.
        retained: (N, d), or any square root of their Gram matrix where only that is needed.
        count: N.
        invariant: K^T, (at most 4, d): the start token, and centres of the empty prompt's other tokens.
    """

    edited: Tensor
    guides: Tensor
    owner: Tensor
    retained: Tensor
    count: int
    invariant: Tensor

    @property
    def concepts(self) -> int:
        """k, over which the reference takes its means."""
        return int(self.owner.max()) + 1

    def tensors(self) -> dict[str, Tensor]:
        """What an eraser stores to be solved again; of many retained tokens, a root of their Gram matrix."""
        retained = self.retained.double()
        if len(retained) > retained.shape[1]:
            retained = torch.linalg.qr(retained).R
        return {
            "edited": self.edited,
            "guides": self.guides,
            "owner": self.owner,
            "retained": retained,
            "retained.count": torch.tensor(self.count),
            "invariant": self.invariant,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SpeedTokens:
        """The inverse of `tensors`."""
        return cls(
            edited=tensors["edited"],
            guides=tensors["guides"],
            owner=tensors["owner"],
            retained=tensors["retained"],
            count=int(tensors["retained.count"]),
            invariant=tensors["invariant"],
        )


def speed_tokens(model: Model, request: Request, retain: Sequence[str]) -> tuple[SpeedTokens, Embedded]:
    """Embed what SPEED reads: the last subject tokens; for kind `unsafe` all tokens but the first.

    With nothing to retain, the empty prompt's tokens but the first are retained.
    """
    pairs = [prompt_pairs(concept, expand=False)[0] for concept in request.concepts]
    targets = model.embed([target for target, _ in pairs], clip_skip=request.clip_skip)
    anchors = model.embed([anchor for _, anchor in pairs], clip_skip=request.clip_skip)
    edited: list[Tensor] = []
    guides: list[Tensor] = []
    for index, concept in enumerate(request.concepts):
        everything = concept.kind == "unsafe"
        edited.append(_words(targets, index) if everything else targets.take([index]).last_tokens)
        guides.append(_words(anchors, index) if everything else anchors.take([index]).last_tokens)
    empty = model.embed([""], clip_skip=request.clip_skip)
    starts = torch.cat([part.tokens[0, : part.start] for part in empty.sequences]).double()
    fillers = _words(empty, 0).double()
    pieces = [
        model.embed(retain[first : first + BATCH], clip_skip=request.clip_skip).last_tokens
        for first in range(0, len(retain), BATCH)
    ]
    retained = torch.cat(pieces) if pieces else fillers
    tokens = SpeedTokens(
        edited=torch.cat(edited).double(),
        guides=torch.cat(guides).double(),
        owner=torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(rows) for rows in edited])),
        retained=retained,
        count=len(retained),
        invariant=torch.cat([starts, centres(fillers)]),
    )
    return tokens, targets


def joined_retained(
    erasers: Sequence[Eraser], request: Request, prompts_of: Callable[[Request], Sequence[str]]
) -> dict[str, Tensor]:
    """The retained tokens of `request`, from erasers that each stored those of its own.

    Raises:
        Apart: they retain different prompts, and one stored only a root of their Gram matrix.
    """
    prompts, blocks = list(prompts_of(request)), dict[str, Tensor]()
    for eraser in erasers:
        listed, rows, count = list(prompts_of(eraser.request)), *(eraser.inputs[name] for name in RETAINED)
        if listed == prompts:
            return {name: eraser.inputs[name] for name in RETAINED}
        if len(rows) == count:
            blocks |= by_prompt(listed, rows)
    if not prompts or not all(prompt in blocks for prompt in prompts):
        raise Apart("they retain different prompts, and of many only a summary is stored")
    retained = torch.cat([blocks[prompt] for prompt in prompts])
    return {"retained": retained, "retained.count": torch.tensor(len(retained))}


def _words(embedded: Embedded, index: int) -> Tensor:
    """All tokens of a prompt but the start token."""
    return torch.cat([part.tokens[index, part.start :] for part in embedded.sequences])


def centres(rows: Tensor, count: int = _CENTRES) -> Tensor:
    """Centres of `rows` (n, d) by k-means from `count` rows far apart, (at most count, d)."""
    chosen = [int((rows - rows.mean(0)).norm(dim=1).argmax())]
    while len(chosen) < min(count, len(rows)):
        chosen.append(int(torch.cdist(rows, rows[chosen]).min(dim=1).values.argmax()))
    centre, nearest = rows[chosen], torch.full((len(rows),), -1)
    for _ in range(_ROUNDS):
        now = torch.cdist(rows, centre).argmin(dim=1)
        if torch.equal(now, nearest):
            break
        nearest = now
        centre = torch.stack([rows[nearest == index].mean(0) for index in nearest.unique()])
    return centre
