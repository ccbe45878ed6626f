"""Whether a model is one that an eraser fits: it embeds the probes as the base did, and has the weights to be edited.

Weights are recognised by SHA-256. Because a model may be loaded in half precision, each weight has two digests: rounded
to float16 and to bfloat16. If one of them is equal, the weights are the same up to the coarser of both models' dtypes.

Embeddings of one text encoder differ by the rounding of its dtype, for which `embedding_margin` leaves room.

Embedding the probes takes longer than attaching an eraser may, so results are cached for each text encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.nn import Parameter

from efface.edits.kinds import TextEdit, WeightEdit
from efface.eraser.record import Base, EraserRecord
from efface.errors import FORCE, WrongBase
from efface.files import public_name, sha256_of_tensors
from efface.models.text.embedded import embedding_margin

if TYPE_CHECKING:
    from torch import nn

    from efface.models.model import Model
    from efface.models.text.embedded import Embedded

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_PROBES = 4
_PLAIN = (Tensor, Parameter)  # tensors of other types, which are quantised, may have no entry at an index
_SAMPLES = 16

AnyEraser = TypeVar("AnyEraser", bound=EraserRecord)


def base_of(model: Model, embedded: Embedded) -> Base:
    """The base that `model` is, recognised by how it embeds the first few of the edited prompts."""
    probes = list(dict.fromkeys(embedded.prompts))[:_PROBES]
    rows = embedded.take([embedded.prompts.index(probe) for probe in probes])
    return Base(public_name(model.name), model.family, model.part_hash("text_encoder"), tuple(probes), rows.last_tokens)


def check_base(eraser: EraserRecord, model: Model, force: bool = False) -> None:
    """Check that `model` embeds the eraser's probes as its base did, and has the weights that are edited.

    Args:
        eraser: The eraser.
        model: The model to use it on.
        force: Accept another text encoder and other weights, but not another width or a missing text stream.

    Raises:
        WrongBase: The model is not the eraser's base.
    """
    check_erasers_fit([eraser], model, force)


def check_erasers_fit(erasers: Iterable[EraserRecord], model: Model, force: bool = False) -> None:
    """`check_base` for several erasers; the state of the text encoders is examined once.

    Args:
        erasers: The erasers.
        model: The model to use them on.
        force: As for `check_base`.

    Raises:
        WrongBase: The model is not the base of one of them.
    """
    cache: EmbeddingCheckCache | None = None
    for eraser in erasers:
        _check_streams(eraser, model)
        if force:
            continue
        made_for = f"The eraser was made for {eraser.base.model}"
        for stream in eraser.base.of_streams if eraser.base.probes else ():
            if not model.reading(stream).has_text_encoder:
                warnings.warn(f"{made_for}; {model.name} has no text encoder to check that against.", stacklevel=4)
                continue
            cache = cache or check_cache_of(model)
            error, margin = cache.error(eraser, model, stream)
            if not error <= margin:
                raise WrongBase(
                    f"{made_for}; {model.name} embeds '{eraser.base.probes[0]}' differently (relative error "
                    f"{error:.2g}). Erase on this model, or pass {FORCE} if you know better."
                )
        _check_weights(eraser, model, made_for)


def _check_streams(eraser: EraserRecord, model: Model) -> None:
    made_for = f"The eraser was made for {eraser.base.model}"
    widths = [(edit.stream, edit.dim) for edit in eraser.edits if isinstance(edit, TextEdit)]
    if eraser.base.probes:
        widths += [(stream, tokens.shape[1]) for stream, tokens in eraser.base.of_streams.items()]
    for stream, width in widths:
        if stream not in model.streams:
            raise WrongBase(f"{made_for}, whose text enters by a stream '{stream}'; {model.name} has none.")
        width_of_model = model.reading(stream).width
        if width != width_of_model:
            raise WrongBase(f"{made_for}, {width} wide; the text of {model.name} is {width_of_model} wide.")


def _check_weights(eraser: EraserRecord, model: Model, made_for: str) -> None:
    digests = eraser.base.parameters
    for part, names in _edited_parameters(eraser).items():
        recorded = {name for name in names if f"{part}.{name}" in digests}
        for name, weight in model.weights(part, recorded) if recorded else ():
            if not has_digest(digests[f"{part}.{name}"], weight):
                raise WrongBase(
                    f"{made_for}; {part}.{name} of {model.name} is another weight, or another eraser is on it. "
                    f"Erase on this model, compose the erasers, or pass {FORCE} if you know better."
                )


def with_parameters(eraser: AnyEraser, model: Model) -> AnyEraser:
    """The eraser with the digests of the weights that it edits, read one after the other from the unedited `model`."""
    digests = {
        f"{part}.{name}": {kind: _digest(weight, kind) for kind in _DTYPES}
        for part, names in _edited_parameters(eraser).items()
        for name, weight in model.weights(part, names)
    }
    return replace(eraser, base=replace(eraser.base, parameters=digests)) if digests else eraser


def has_digest(digests: Mapping[str, str], weight: Tensor) -> bool:
    """Whether a weight, of any shape, has one of these digests."""
    likely_first = sorted(_DTYPES, key=lambda kind: _DTYPES[kind] != weight.dtype)
    return any(_digest(weight, kind) == digests.get(kind) for kind in likely_first)


def _digest(weight: Tensor, kind: str) -> str:
    return sha256_of_tensors({"": weight.to(_DTYPES[kind])})


def _edited_parameters(eraser: EraserRecord) -> dict[str, set[str]]:
    """The names of the parameters that weight edits change, by the part of the model that has them."""
    names: dict[str, set[str]] = {}
    for edit in eraser.edits:
        if isinstance(edit, WeightEdit):
            part, _, name = edit.parameter.partition(".")
            names.setdefault(part, set()).add(name)
    return names


@dataclass(eq=False)
class EmbeddingCheckCache:
    """The errors of erasers' probes on one model, valid while the model's text encoders stay in the same state.

    A weight that changes is another tensor, is stored elsewhere, or has a higher version. A write through `.data` (as
    when a LoRA is merged) changes none of these, only the numbers: a few numbers are compared too.

    Attributes:
        tokenizer: The model's tokenizer.
        tensors: References to the weights of its text encoders, of any shape, such as (d_out, d_in).
        traces: Identity, address and version of each weight.
        numbers: A few numbers of the weights.
        errors: The largest relative error of a probe and its margin, by stream, clip_skip and base.
    """

    tokenizer: Any
    tensors: list[ref[Tensor]] = field(default_factory=list["ref[Tensor]"])
    traces: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    numbers: list[float] = field(default_factory=list[float])
    errors: dict[tuple[Any, ...], tuple[float, float]] = field(
        default_factory=dict[tuple[Any, ...], tuple[float, float]]
    )

    @classmethod
    def of(cls, model: Model) -> EmbeddingCheckCache:
        """An empty cache for a model's text encoders in their present state."""
        tensors = _tensors(model)
        return cls(model.tokenizer, [ref(tensor) for tensor in tensors], _traces(tensors), _numbers(tensors))

    def is_valid(self, model: Model) -> bool:
        """Whether the model's text encoders and tokenizer are still in that state."""
        tensors = _tensors(model)
        return (
            self.tokenizer is model.tokenizer
            and all(reference() is not None for reference in self.tensors)
            and self.traces == _traces(tensors)
            and self.numbers == _numbers(tensors)
        )

    def error(self, eraser: EraserRecord, model: Model, stream: str) -> tuple[float, float]:
        """The largest relative error of the eraser's probes in one text stream, and its margin.

        Args:
            eraser: The eraser, with the embeddings of its base.
            model: The model to compare it with.
            stream: The text stream.
        """
        key = (stream, eraser.request.clip_skip, eraser.base.key)
        if key not in self.errors:
            expected = eraser.base.of_streams[stream]
            skip = eraser.request.clip_skip
            tokens = model.reading(stream).embed(eraser.base.probes, clip_skip=skip, truncate=True).last_tokens
            error = float("inf")
            if tokens.shape == expected.shape:
                error = float(((tokens - expected).norm(dim=1) / expected.norm(dim=1)).max())
            self.errors[key] = error, embedding_margin(tokens, expected)
        return self.errors[key]


_caches: WeakKeyDictionary[nn.Module, EmbeddingCheckCache] = WeakKeyDictionary()


def check_cache_of(model: Model) -> EmbeddingCheckCache:
    """The cache of a model whose text encoders are in their present state; a new one if the state has changed."""
    first = model.text_encoders[0]
    if any(getattr(encoder, "_hf_peft_config_loaded", False) for encoder in model.text_encoders):
        # The scale of a LoRA is no tensor: it can be changed, merged and removed without a trace in the weights.
        _caches.pop(first, None)
        return EmbeddingCheckCache(model.tokenizer)
    try:
        cache = _caches.get(first)
        if cache is None or not cache.is_valid(model):
            cache = _caches[first] = EmbeddingCheckCache.of(model)
    except RuntimeError:  # some quantised tensors have no address that identifies them
        return EmbeddingCheckCache(model.tokenizer)
    return cache


def _tensors(model: Model) -> list[Tensor]:
    # `parameters()` builds a name for each, which takes longer than everything else here.
    modules: list[nn.Module] = [*model.text_encoders]
    tensors: list[Tensor | None] = []
    while modules:
        attributes = vars(modules.pop())
        tensors += [*attributes["_parameters"].values(), *attributes["_buffers"].values()]
        modules += filter(None, attributes["_modules"].values())
    return [tensor for tensor in tensors if tensor is not None]


def _traces(tensors: list[Tensor]) -> list[tuple[int, int, int]]:
    # Tensors made in inference mode have no version counter.
    return [(id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def _numbers(tensors: list[Tensor]) -> list[float]:
    """One number each of a few matrices, spread over the layers and over their functions in a layer."""
    matrices = [
        tensor
        for tensor in tensors
        if tensor.ndim == 2 and tensor.numel() and type(tensor) in _PLAIN and not tensor.is_meta
    ]
    step = len(matrices) // _SAMPLES | 1  # odd, so that it does not coincide with the period of a layer's matrices
    return [float(matrix.detach()[len(matrix) // 2, matrix.shape[1] // 3]) for matrix in matrices[::step]]
