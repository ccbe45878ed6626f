"""The tokens that SPEED solves for: targets, their anchors, retained tokens, and invariant tokens.

Shapes: n edited tokens, N retained tokens, d text width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

import torch
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import CannotCombine
from efface.methods.closed_form.ridge import PreservedTokens, check_finite
from efface.methods.closed_form.stored import rows_by_prompt
from efface.methods.closed_form.tokens import BATCH, last_tokens_of, prompt_pairs
from efface.models.model import Model
from efface.models.text.embedded import Embedded
from efface.request.names import naming
from efface.request.record import Request

RETAINED = ("retained", "retained.count")  # names of the stored inputs
_CENTRES = 3
_ROUNDS = 100
_IN_MEMORY = 1 << 26  # bytes


class Rows:
    """Tokens (N, d), float32, which can be read repeatedly in batches.

    Few tokens are stored in memory, many in a temporary file.
    """

    def __init__(self, width: int) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with the last reference to it
        self._width = width
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Append tokens (n, d)."""
        check_finite(rows)
        self._file.seek(0, os.SEEK_END)
        self._file.write(rows.float().contiguous().numpy().data)
        self.count += len(rows)

    def __iter__(self) -> Iterator[Tensor]:
        """The tokens in order, (at most BATCH, d) at a time, float64."""
        self._file.seek(0)
        while piece := self._file.read(4 * self._width * BATCH):
            yield torch.frombuffer(bytearray(piece), dtype=torch.float32).view(-1, self._width).double()


@dataclass(frozen=True, eq=False)
class SpeedTokens:
    """The inputs of a solve besides the retained tokens.

    Attributes:
        edited: The target tokens C, (n, d), float64.
        guides: Their anchors A, (n, d), float64.
        owner: The position of the concept of each token, (n,).
        invariant: The tokens K^T, (at most 4, d): the start token, and centres of the empty prompt's other tokens.
    """

    edited: Tensor
    guides: Tensor
    owner: Tensor
    invariant: Tensor

    @property
    def concepts(self) -> int:
        """The number of concepts k, over which the reference takes its means."""
        return int(self.owner.max()) + 1

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that an eraser stores so that it can be solved again."""
        return {"edited": self.edited, "guides": self.guides, "owner": self.owner, "invariant": self.invariant}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SpeedTokens:
        """The inverse of `tensors`."""
        return cls(**{name: tensors[name] for name in ("edited", "guides", "owner", "invariant")})


def speed_tokens(model: Model, request: Request) -> tuple[SpeedTokens, Embedded]:
    """Embed the tokens that SPEED edits: the last subject tokens, or all tokens but the first for kind `unsafe`."""
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
    tokens = SpeedTokens(
        edited=torch.cat(edited).double(),
        guides=torch.cat(guides).double(),
        owner=torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(rows) for rows in edited])),
        invariant=torch.cat([starts, centres(fillers)]),
    )
    check_finite(*tokens.tensors().values())
    return tokens, targets


def retained_prompts(request: Request) -> list[str]:
    """The preserved prompts that do not contain the name of a concept, as in the reference."""
    left = set(left_out(request))
    return [prompt for prompt in dict.fromkeys(request.preserve) if prompt not in left]


def left_out(request: Request) -> list[str]:
    """The preserved prompts that contain the name of a concept, and are not retained."""
    patterns = [naming(name) for name in request.names]
    return [prompt for prompt in dict.fromkeys(request.preserve) if any(one.search(prompt) for one in patterns)]


def retained_rows(model: Model, request: Request) -> Rows:
    """The last subject tokens of the retained prompts, or the empty prompt's tokens but the first if there are none."""
    rows = Rows(model.width)
    for tokens in last_tokens_of(model, retained_prompts(request), request.clip_skip):
        rows.add(tokens)
    if not rows.count:
        rows.add(_words(model.embed([""], clip_skip=request.clip_skip), 0))
    return rows


def retained_tensors(rows: Rows, width: int) -> dict[str, Tensor]:
    """The tensors that an eraser stores for the retained tokens.

    Of more than `width` tokens, a square root of their Gram matrix is stored.
    """
    tokens = PreservedTokens(width)
    for batch in rows:
        tokens.add(batch)
    retained = tokens.rows
    if tokens.gram is not None:
        squares, directions = torch.linalg.eigh(tokens.gram)
        retained = squares.clamp(min=0).sqrt()[:, None] * directions.T
    return {"retained": retained, "retained.count": torch.tensor(rows.count)}


def stored_retained(parts: Sequence[Solution], request: Request) -> dict[str, Tensor]:
    """The retained tokens of `request`, (N, d), and their number, from the parts that store them.

    Raises:
        CannotCombine: The parts retain different prompts, and one stores only a root of its Gram matrix.
    """
    prompts, blocks = retained_prompts(request), dict[str, Tensor]()
    for part in parts:
        of_part, rows, count = retained_prompts(part.request), *(part.inputs[name] for name in RETAINED)
        if of_part == prompts:
            return {name: part.inputs[name] for name in RETAINED}
        if len(rows) == count:
            blocks |= rows_by_prompt(of_part, rows)
    if not prompts or not all(prompt in blocks for prompt in prompts):
        raise CannotCombine("they retain different prompts, and of many only a summary is stored")
    retained = torch.cat([blocks[prompt] for prompt in prompts])
    return {"retained": retained, "retained.count": torch.tensor(len(retained))}


def _words(embedded: Embedded, index: int) -> Tensor:
    """All tokens of a prompt except the start token."""
    return torch.cat([part.tokens[index, part.start :] for part in embedded.sequences])


def centres(rows: Tensor, count: int = _CENTRES) -> Tensor:
    """Centres of `rows` (n, d) by k-means, which starts from `count` distant rows, (at most count, d)."""
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
