"""Certificates: lower bounds on the distance of any text embedding from an erased concept, after the edit.

No search for embeddings can get below them.

An edit M = I + L R^T maps a token e to M e, so an attacker who chooses e reaches the keys and values W_l M e. The keys
and values of the concept's last subject token c are W_l c. At least this share of them stays out of reach:

    rho(M)^2 = min_{e in E} sum_l |W_l (M e - c)|^2 / sum_l |W_l c|^2 = min_{e in E} |M e - c|_S^2 / |c|_S^2

with S = sum_l W_l^T W_l. Three numbers between 0 (fully restored) and about 1:

- `free`: E = R^d, for attacks that inject embeddings. With N a basis of null(M^T), any y in range(M) has N^T y = 0, so
  rho^2 |c|_S^2 = (N^T c)^T (N^T S^-1 N)^-1 (N^T c): zero for every invertible M, among them those of ridge regressions.
- `text`: E = {gamma z + beta : 1^T z = 0, |z|^2 <= d}: all outputs of a text encoder that ends in a LayerNorm (weight
  gamma, bias beta), for any prompt, soft token or textual inversion. A least-squares problem in a ball; None if the
  denoiser reads a layer without that norm.
- `ceiling`: |c - g|_S / |c|_S, the largest value for an eraser that leaves the guide g unchanged (then e = g is in E).

If a stream has several edits, M is their product M_2 M_1. If a concept has several tokens, in several text streams or
of several text encoders, the sums run over all of them, including streams without an edit; `text` is None unless it is
defined for all.

Limits: a certificate bounds the reproduction of one token's keys and values, and nothing else.
- It does not bound the image: other tokens of a prompt may produce the concept without its own keys and values, and the
  image may show the concept at a large residual, or hide it at a small one.
- It holds for one model's S. A fine-tuned denoiser has another one, and weights may be trained again.
- It holds for the edit as stored. A singular M that is rounded, as by baking into half precision, is invertible, though
  only by embeddings that are larger than the concept's by the inverse of the rounding error.
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
from efface.eraser.base_check import AnyEraser, check_base
from efface.eraser.record import EraserRecord
from efface.eraser.streams import split
from efface.errors import BadRequest
from efface.methods.closed_form.bounds import residuals, shares_of
from efface.methods.closed_form.stored import first_with
from efface.methods.closed_form.tokens import last_tokens_of, prompt_pairs
from efface.models.model import Model
from efface.models.text_gram import TextGram, cached_gram, fingerprint, text_gram

#: The limits of a certificate, to print with its numbers.
LIMITS = (
    "This bounds the keys and values of a concept's last token, not the picture: other tokens of a prompt may draw it "
    "without them. It holds for this model's weights alone, and says nothing of fine-tuned ones."
)

_JOIN = "+"  # between the fingerprints of a model's text streams
_PREFIX = "certificate."  # of the names of inputs that only a new certificate needs


@dataclass(frozen=True, eq=False)
class _Read:
    """The inputs of a certificate in one text stream.

    Attributes:
        gram: The matrix S.
        tokens: The last subject tokens of each concept, one per text encoder, (n, k, d), float64.
        guides: The last subject tokens of each guide, (n, k, d), float64.
        affine: The weight gamma and the bias beta of the text encoder's last LayerNorm, (d,) each; None if there is
            none.
    """

    gram: TextGram
    tokens: Tensor
    guides: Tensor
    affine: tuple[Tensor, Tensor] | None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that an eraser stores besides S so that it can be certified again."""
        norm = {} if self.affine is None else {"gamma": self.affine[0], "beta": self.affine[1]}
        named = {"tokens": self.tokens, "guides": self.guides, **norm}
        return {f"{_PREFIX}{name}": tensor for name, tensor in named.items()}

    @classmethod
    def stored(cls, erasers: Sequence[Solution], concepts: Sequence[str]) -> _Read | None:
        """Read the inputs that erasers of one stream store; None if one of them stores none."""
        if not all({"S", f"{_PREFIX}tokens", f"{_PREFIX}guides"} <= eraser.inputs.keys() for eraser in erasers):
            return None

        def rows(name: str) -> Tensor:
            owners = [(first_with(concept, erasers), concept) for concept in concepts]
            return torch.stack([one.inputs[f"{_PREFIX}{name}"][one.concepts.index(concept)] for one, concept in owners])

        inputs = erasers[0].inputs
        norm = [inputs[f"{_PREFIX}{name}"] for name in ("gamma", "beta") if f"{_PREFIX}{name}" in inputs]
        return cls(TextGram(inputs["S"]), rows("tokens"), rows("guides"), (norm[0], norm[1]) if norm else None)


def certify(model: Model, eraser: AnyEraser) -> AnyEraser:
    """Add a certificate for each concept, and the fingerprint of the S that it holds for.

    An eraser with other edits than those of text embeddings has no certificate, and is returned unchanged.

    Raises:
        WrongBase: The eraser was made for another model.
        BadRequest: The eraser debiases; or the keys and values of a concept are zero.
    """
    if eraser.kind_of_edit != "text" or not eraser.edits:
        return eraser
    if any(concept.attributes for concept in eraser.request.concepts):
        raise BadRequest("A certificate bounds how far an erased concept can be restored; this eraser debiases.")
    check_base(eraser, model)
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in eraser.request.concepts), strict=True)
    skip = eraser.request.clip_skip
    read: dict[str, _Read] = {}
    for stream in model.streams:
        reader = model.reading(stream)
        gram = cached_gram(reader) or text_gram(reader)
        # A prompt has one token for each text encoder of the stream.
        tokens, aims = (
            torch.cat(list(last_tokens_of(reader, texts, skip))).double().unflatten(0, (len(texts), -1))
            for texts in (prompts, guides)
        )
        read[stream] = _Read(gram, tokens, aims, _affine(reader.text_norm))
    return _certified(eraser, read, _JOIN.join(of_stream.gram.fingerprint for of_stream in read.values()))


def certify_if_stored(model: Model, eraser: AnyEraser) -> AnyEraser:
    """Add a certificate if the eraser stores S. Whether S is in the cache does not matter: it would change the file."""
    if eraser.kind_of_edit != "text" or any(concept.attributes for concept in eraser.request.concepts):
        return eraser
    if any(name.rpartition("/")[2] == "S" for name in eraser.inputs):
        with suppress(BadRequest):  # no certificate was requested
            return certify(model, eraser)
    return eraser


def certify_again(eraser: AnyEraser, like: Sequence[EraserRecord]) -> AnyEraser:
    """Add a certificate if it can be computed without the model.

    Args:
        eraser: An eraser without a certificate, made from other erasers without the model.
        like: The other erasers. They must have certificates for the same S, and store it.
    """
    marks = {one.provenance.get("certificate", {}).get("fingerprint") for one in like}
    mark, by_eraser = next(iter(marks)), [split(one) for one in like]
    if len(marks) > 1 or mark is None or mark.count(_JOIN) + 1 != len(by_eraser[0]):
        return eraser
    read: dict[str, _Read] = {}
    for stream in by_eraser[0]:
        stored = _Read.stored([streams[stream] for streams in by_eraser], eraser.concepts)
        if stored is None:
            return eraser
        read[stream] = stored
    return _certified(eraser, read, mark)


def uncertified(eraser: AnyEraser) -> AnyEraser:
    """Remove the certificate, since it depends on all concepts of an eraser."""
    provenance = {name: value for name, value in eraser.provenance.items() if name != "certificate"}
    inputs = {name: tensor for name, tensor in eraser.inputs.items() if not name.rpartition("/")[2].startswith(_PREFIX)}
    return replace(eraser, inputs=inputs, provenance=provenance)


def valid_certificate(model: Model, eraser: EraserRecord) -> Mapping[str, Mapping[str, float | None]] | None:
    """The certificate of an eraser by concept, if it holds for this model; warns if it holds for another one."""
    if eraser.certificate is None:
        return None
    of_model = _JOIN.join(fingerprint(model.reading(stream)) for stream in model.streams)
    if eraser.provenance["certificate"]["fingerprint"] != of_model:
        warnings.warn(
            f"The certificate of the eraser of {', '.join(eraser.concepts)} does not hold: {model.name} has other "
            "weights that read the text than the model that it was made for.",
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
        norms = residuals(edit, of.gram, of.tokens.flatten(0, 1), of.guides.flatten(0, 1), of.affine)
        squares += norms.square().reshape(4, len(eraser.concepts), -1).sum(2)
    unread = [name for name, norm in zip(eraser.concepts, squares[3].tolist(), strict=True) if norm == 0]
    if unread:
        raise BadRequest(
            f"The keys and values of '{unread[0]}' are zero in this model, so there is nothing to certify."
        )
    record = {name: asdict(of_one) for name, of_one in zip(eraser.concepts, shares_of(squares.sqrt()), strict=True)}
    certificate = {"fingerprint": mark, "concepts": record}
    return replace(
        eraser,
        inputs={**eraser.inputs, **_stored(eraser, read)},
        provenance={**eraser.provenance, "certificate": certificate},
    )


def _stored(eraser: EraserRecord, read: Mapping[str, _Read]) -> dict[str, Tensor]:
    """The tensors for certifying again, if S is stored too."""
    prefixes = {stream: f"{stream}/" if "streams" in eraser.provenance else "" for stream in read}
    if not all(f"{prefix}S" in eraser.inputs for prefix in prefixes.values()):
        return {}
    return {f"{prefixes[stream]}{name}": tensor for stream, of in read.items() for name, tensor in of.tensors().items()}


def _affine(norm: Any) -> tuple[Tensor, Tensor] | None:
    return None if norm is None else (norm.weight.detach().cpu().double(), norm.bias.detach().cpu().double())
