"""How near any text embedding can bring an erased concept back: a number that no search can fall below.

An edit M = I + L R^T sends a token e to M e, so an attacker who chooses e reaches the keys and values W_l M e. Of the
concept's last subject token c, whose keys and values are W_l c, at least this share stays out of reach:

    rho(M)^2 = min_{e in E} sum_l |W_l (M e - c)|^2 / sum_l |W_l c|^2 = min_{e in E} |M e - c|_S^2 / |c|_S^2

with S = sum_l W_l^T W_l. Three numbers between 0 (fully restored) and about 1:

- `free`: E = R^d, for attacks that inject embeddings. With N a basis of null(M^T), any y in range(M) has N^T y = 0, so
  rho^2 |c|_S^2 = (N^T c)^T (N^T S^-1 N)^-1 (N^T c): zero for every invertible M, among them those of ridge regressions.
- `text`: E = {gamma z + beta : 1^T z = 0, |z|^2 <= d}: all that a text encoder that ends in a LayerNorm (weight gamma,
  bias beta) can say, for any prompt, soft token or textual inversion. A least-squares problem in a ball; None where
  the denoiser reads a layer without that norm.
- `ceiling`: |c - g|_S / |c|_S, which no eraser exceeds that lets the guide g through unchanged (for then e = g).

Where several edits of a stream follow one another, M is all of them: M_2 M_1. Where a concept has several tokens, in
several text streams or of several text encoders, the sums run over all of them, streams that the eraser leaves alone
included; `text` is None unless it is defined for all.

It bounds the reproduction of one token's keys and values, and nothing else. It does not bound the picture: other tokens
of a prompt may draw the concept without the concept's own keys and values, a residual that is small in this norm may
still hide it or a large one show it, and weights may be tuned again. A certificate is of one model's S: a fine-tuned
denoiser has another one. And it is of the edit as it is stored: a singular M that was rounded, as by baking into half
precision, is invertible again, though only by embeddings larger than the concept's by the inverse of the rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efface.edits.composition import by_stream
from efface.edits.kinds import TextEdit
from efface.edits.solution import Solution
from efface.eraser.base import AnyEraser, check_base
from efface.eraser.record import EraserRecord
from efface.eraser.streams import split
from efface.errors import BadRequest
from efface.methods.closed_form.bounds import residuals, shares_of
from efface.methods.closed_form.stored import first_with
from efface.methods.closed_form.tokens import last_tokens_of, prompt_pairs
from efface.models.model import Model
from efface.models.text_gram import TextGram, cached_gram, fingerprint, text_gram

#: What whoever reads the numbers must know with them.
LIMITS = (
    "This bounds the keys and values of a concept's last token, not the picture: other tokens of a prompt may draw it "
    "without them. It holds for this model's weights alone, and says nothing of fine-tuned ones."
)

_JOIN = "+"  # between the fingerprints of a model's text streams
_OWN = "certificate."  # how the names of inputs begin that are for certifying again alone
_MOMENT = 1280  # width of a text up to which certifying unasked takes a moment


@dataclass(frozen=True, eq=False)
class _Read:
    """What a certificate is computed from in one text stream.

    Attributes:
        gram: S.
        tokens: each concept's last subject tokens, one a text encoder, (n, k, d), float64.
        guides: its guide's, likewise.
        affine: gamma and beta of the text encoder's last LayerNorm, (d,) each; None where there is none.
    """

    gram: TextGram
    tokens: Tensor
    guides: Tensor
    affine: tuple[Tensor, Tensor] | None

    def tensors(self) -> dict[str, Tensor]:
        """What an eraser stores beside S to be certified again."""
        norm = {} if self.affine is None else {"gamma": self.affine[0], "beta": self.affine[1]}
        named = {"tokens": self.tokens, "guides": self.guides, **norm}
        return {f"{_OWN}{name}": tensor for name, tensor in named.items()}

    @classmethod
    def stored(cls, erasers: Sequence[Solution], concepts: Sequence[str]) -> _Read | None:
        """From what erasers of one stream stored; None where one of them did not."""
        if not all({"S", f"{_OWN}tokens", f"{_OWN}guides"} <= eraser.inputs.keys() for eraser in erasers):
            return None

        def rows(name: str) -> Tensor:
            owners = [(first_with(concept, erasers), concept) for concept in concepts]
            return torch.stack([one.inputs[f"{_OWN}{name}"][one.concepts.index(concept)] for one, concept in owners])

        inputs = erasers[0].inputs
        norm = [inputs[f"{_OWN}{name}"] for name in ("gamma", "beta") if f"{_OWN}{name}" in inputs]
        return cls(TextGram(inputs["S"]), rows("tokens"), rows("guides"), (norm[0], norm[1]) if norm else None)


def certify(model: Model, eraser: AnyEraser) -> AnyEraser:
    """The eraser with a certificate for each concept, and the fingerprint of the S that it holds for.

    An eraser that is not all of edits of the text embeddings has no certificate, and is returned as it is.

    Raises:
        WrongBase: the eraser was made for another model.
        BadRequest: it debiases; or the model reads nothing of a concept, so that there is nothing to certify.
    """
    if eraser.kind_of_edit != "text" or not eraser.edits:
        return eraser
    if any(concept.attributes for concept in eraser.request.concepts):
        raise BadRequest("A certificate says how far an erased concept comes back; this eraser debiases.")
    check_base(eraser, model)
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in eraser.request.concepts), strict=True)
    skip = eraser.request.clip_skip
    read: dict[str, _Read] = {}
    for stream in model.streams:
        reader = model.reading(stream)
        gram = cached_gram(reader) or text_gram(reader)
        # A prompt has a token for each of the stream's text encoders.
        tokens, aims = (
            torch.cat(list(last_tokens_of(reader, texts, skip))).double().unflatten(0, (len(texts), -1))
            for texts in (prompts, guides)
        )
        read[stream] = _Read(gram, tokens, aims, _affine(reader.text_norm))
    return _certified(eraser, read, _JOIN.join(of_stream.gram.fingerprint for of_stream in read.values()))


def certify_if_quick(model: Model, eraser: AnyEraser) -> AnyEraser:
    """The eraser, with its certificate if S is at hand: if it was needed to make it, or is in the cache."""
    if eraser.kind_of_edit != "text" or any(concept.attributes for concept in eraser.request.concepts):
        return eraser
    readers = [model.reading(stream) for stream in model.streams]
    stored = any(name.rpartition("/")[2] == "S" for name in eraser.inputs)
    if stored or all(reader.width <= _MOMENT and cached_gram(reader) for reader in readers):
        with suppress(BadRequest):  # nobody asked
            return certify(model, eraser)
    return eraser


def certify_again(eraser: AnyEraser, like: Sequence[EraserRecord]) -> AnyEraser:
    """The eraser, with its certificate if it can be computed without the model.

    Args:
        eraser: made of others without the model, and not certified yet.
        like: those others; they must have certificates for one S, and have stored it.
    """
    marks = {one.provenance.get("certificate", {}).get("fingerprint") for one in like}
    mark, apart = next(iter(marks)), [split(one) for one in like]
    if len(marks) > 1 or mark is None or mark.count(_JOIN) + 1 != len(apart[0]):
        return eraser
    read: dict[str, _Read] = {}
    for stream in apart[0]:
        stored = _Read.stored([streams[stream] for streams in apart], eraser.concepts)
        if stored is None:
            return eraser
        read[stream] = stored
    return _certified(eraser, read, mark)


def uncertified(eraser: AnyEraser) -> AnyEraser:
    """Without its certificate, which is of the whole operator: another choice of concepts has another one."""
    told = {name: said for name, said in eraser.provenance.items() if name != "certificate"}
    inputs = {name: held for name, held in eraser.inputs.items() if not name.rpartition("/")[2].startswith(_OWN)}
    return replace(eraser, inputs=inputs, provenance=told)


def holding(model: Model, eraser: EraserRecord) -> Mapping[str, Mapping[str, float | None]] | None:
    """An eraser's certificate, by concept, if it is one of this model; with a warning if it is of another."""
    if eraser.certificate is None:
        return None
    found = _JOIN.join(fingerprint(model.reading(stream)) for stream in model.streams)
    if eraser.provenance["certificate"]["fingerprint"] != found:
        warnings.warn(
            f"The certificate of the eraser of {', '.join(eraser.concepts)} does not hold: {model.name} reads text by "
            "other weights than it was made for.",
            stacklevel=2,
        )
        return None
    return eraser.certificate


def _certified(eraser: AnyEraser, read: Mapping[str, _Read], mark: str) -> AnyEraser:
    operators = by_stream(eraser.edits)
    squares = torch.zeros(4, len(eraser.concepts), dtype=torch.float64)
    for stream, of in read.items():
        nothing = torch.zeros(len(of.gram.matrix), 0, dtype=torch.float64)
        edit = operators.get(stream, TextEdit(nothing, nothing))
        found = residuals(edit, of.gram, of.tokens.flatten(0, 1), of.guides.flatten(0, 1), of.affine)
        squares += found.square().reshape(4, len(eraser.concepts), -1).sum(2)
    unread = [name for name, norm in zip(eraser.concepts, squares[3].tolist(), strict=True) if norm == 0]
    if unread:
        raise BadRequest(f"The model reads nothing of '{unread[0]}': its keys and values are zero.")
    record = {name: asdict(of_one) for name, of_one in zip(eraser.concepts, shares_of(squares.sqrt()), strict=True)}
    told = {"fingerprint": mark, "concepts": record}
    return replace(
        eraser,
        inputs={**eraser.inputs, **_stored(eraser, read)},
        provenance={**eraser.provenance, "certificate": told},
    )


def _stored(eraser: EraserRecord, read: Mapping[str, _Read]) -> dict[str, Tensor]:
    """What certifying again takes, where S is stored too."""
    prefixes = {stream: f"{stream}/" if "streams" in eraser.provenance else "" for stream in read}
    if not all(f"{prefix}S" in eraser.inputs for prefix in prefixes.values()):
        return {}
    return {f"{prefixes[stream]}{name}": held for stream, of in read.items() for name, held in of.tensors().items()}


def _affine(norm: Any) -> tuple[Tensor, Tensor] | None:
    return None if norm is None else (norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double())
