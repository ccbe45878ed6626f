"""Whether a model is one that an eraser can be put on: it embeds a few prompts alike, and has the weights to be edited.

Weights are known by SHA-256. A model may be loaded in half precision, so each weight has two digests: rounded to
float16 and to bfloat16. One that is equal means the same weights up to the coarser of both models' types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from efface.edits.kinds import TextEdit, WeightEdit
from efface.errors import WrongBase
from efface.files import sha256_of_tensors

if TYPE_CHECKING:
    from torch import nn

    from efface.eraser.eraser import Eraser
    from efface.models import Model


# Half precision reproduces an embedding to 1e-3 or so; another text encoder is off by 1.
TOLERANCE = 1e-2
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def check_base(eraser: Eraser, model: Model, force: bool = False) -> None:
    """Check that `model` embeds the eraser's probes as its base did, and has the weights that are edited.

    Raises:
        WrongBase: it does not; `force` lets all pass but another width, or a text stream that it has not.
    """
    check_bases([eraser], model, force)


def check_bases(erasers: Iterable[Eraser], model: Model, force: bool = False) -> None:
    """The same for several erasers; the state of the text encoders is looked at once."""
    known: Known | None = None
    for eraser in erasers:
        _check_streams(eraser, model)
        if force:
            continue
        made_for = f"The eraser was made for {eraser.base.model}"
        for stream in eraser.base.of_streams if eraser.base.probes else ():
            if not model.reading(stream).has_text_encoder:
                warnings.warn(f"{made_for}; {model.name} has no text encoder to check that against.", stacklevel=4)
                continue
            known = known or known_of(model)
            error = known.error(eraser, model, stream)
            if not error <= TOLERANCE:
                raise WrongBase(
                    f"{made_for}; {model.name} embeds '{eraser.base.probes[0]}' differently (relative error "
                    f"{error:.2g}). Erase on this model, or pass --force if you know better."
                )
        _check_weights(eraser, model, made_for)


def _check_streams(eraser: Eraser, model: Model) -> None:
    made_for = f"The eraser was made for {eraser.base.model}"
    widths = [(edit.stream, edit.dim) for edit in eraser.edits if isinstance(edit, TextEdit)]
    if eraser.base.probes:
        widths += [(stream, tokens.shape[1]) for stream, tokens in eraser.base.of_streams.items()]
    for stream, wide in widths:
        if stream not in model.streams:
            raise WrongBase(f"{made_for}, whose text enters by a stream '{stream}'; {model.name} has none.")
        found = model.reading(stream).width
        if wide != found:
            raise WrongBase(f"{made_for}, {wide} wide; the text of {model.name} is {found} wide.")


def _check_weights(eraser: Eraser, model: Model, made_for: str) -> None:
    known = eraser.base.parameters
    for part, names in _edited(eraser).items():
        recorded = {name for name in names if f"{part}.{name}" in known}
        for name, weight in model.weights(part, recorded) if recorded else ():
            if not is_same(known[f"{part}.{name}"], weight):
                raise WrongBase(
                    f"{made_for}; {part}.{name} of {model.name} is another weight, or another eraser is on it. "
                    "Erase on this model, compose the erasers, or pass --force if you know better."
                )


def with_parameters(eraser: Eraser, model: Model) -> Eraser:
    """The eraser with the digests of the weights that it edits, read one after the other; `model` is unedited."""
    digests = {
        f"{part}.{name}": {kind: _digest(weight, kind) for kind in _TYPES}
        for part, names in _edited(eraser).items()
        for name, weight in model.weights(part, names)
    }
    return replace(eraser, base=replace(eraser.base, parameters=digests)) if digests else eraser


def is_same(known: Mapping[str, str], weight: Tensor) -> bool:
    """Whether a weight has one of these digests."""
    likely_first = sorted(_TYPES, key=lambda kind: _TYPES[kind] != weight.dtype)
    return any(_digest(weight, kind) == known.get(kind) for kind in likely_first)


def _digest(weight: Tensor, kind: str) -> str:
    return sha256_of_tensors({"": weight.to(_TYPES[kind])})


def _edited(eraser: Eraser) -> dict[str, set[str]]:
    """The names of the parameters that weight edits change, by the part of the model that has them."""
    names: dict[str, set[str]] = {}
    for edit in eraser.edits:
        if isinstance(edit, WeightEdit):
            part, _, name = edit.parameter.partition(".")
            names.setdefault(part, set()).add(name)
    return names


# How models embed erasers' probes, remembered: embedding takes longer than attaching an eraser may.


_SAMPLES = 16


@dataclass(eq=False)
class Known:
    """What was found out about a model's text encoders, and the state that they had then.

    A weight that changes is another tensor, lies elsewhere, or has a higher version. What is written through `.data`
    (as when a LoRA is merged) shows none of these, but in the numbers: a few are compared.
    """

    tokenizer: Any
    tensors: list[ref[Tensor]] = field(default_factory=list["ref[Tensor]"])
    traces: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    numbers: list[float] = field(default_factory=list[float])
    errors: dict[tuple[Any, ...], float] = field(default_factory=dict[tuple[Any, ...], float])

    @classmethod
    def of(cls, model: Model) -> Known:
        """Nothing yet, of the text encoders as they are."""
        tensors = _tensors(model)
        return cls(model.tokenizer, [ref(tensor) for tensor in tensors], _traces(tensors), _numbers(tensors))

    def still(self, model: Model) -> bool:
        """Whether the model's text encoders and tokenizer are in that state."""
        tensors = _tensors(model)
        return (
            self.tokenizer is model.tokenizer
            and all(reference() is not None for reference in self.tensors)
            and self.traces == _traces(tensors)
            and self.numbers == _numbers(tensors)
        )

    def error(self, eraser: Eraser, model: Model, stream: str) -> float:
        """The largest relative error of a probe of the eraser's, as one of the model's text streams embeds it."""
        key = (stream, eraser.request.clip_skip, eraser.base.key)
        if key not in self.errors:
            expected = eraser.base.of_streams[stream]
            skip = eraser.request.clip_skip
            found = model.reading(stream).embed(eraser.base.probes, clip_skip=skip, truncate=True).last_tokens
            alike = found.shape == expected.shape
            error = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) if alike else float("inf")
            self.errors[key] = error
        return self.errors[key]


_remembered: WeakKeyDictionary[nn.Module, Known] = WeakKeyDictionary()


def known_of(model: Model) -> Known:
    """What is known of a model whose text encoders are as they are now."""
    first = model.text_encoders[0]
    if any(getattr(encoder, "_hf_peft_config_loaded", False) for encoder in model.text_encoders):
        # A LoRA's scale is no tensor: it can be turned, merged and taken off without a trace in the weights.
        _remembered.pop(first, None)
        return Known(model.tokenizer)
    try:
        known = _remembered.get(first)
        if known is None or not known.still(model):
            known = _remembered[first] = Known.of(model)
    except RuntimeError:  # some quantised tensors have no place in memory to tell them by
        return Known(model.tokenizer)
    return known


def _tensors(model: Model) -> list[Tensor]:
    # `parameters()` makes a name for each, which takes longer than all else here.
    modules: list[nn.Module] = [*model.text_encoders]
    found: list[Tensor | None] = []
    while modules:
        module = modules.pop()
        own = vars(module)
        found += [*own["_parameters"].values(), *own["_buffers"].values()]
        modules += filter(None, own["_modules"].values())
    return [tensor for tensor in found if tensor is not None]


def _traces(tensors: list[Tensor]) -> list[tuple[int, int, int]]:
    # Tensors made in inference mode count no versions.
    return [(id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def _numbers(tensors: list[Tensor]) -> list[float]:
    """One number each of a few matrices, spread over the layers and over what the matrices do in them."""
    matrices = [tensor for tensor in tensors if tensor.ndim == 2 and tensor.numel() and not tensor.is_meta]
    step = len(matrices) // _SAMPLES | 1  # odd, so that it does not fall in step with a layer's matrices
    return [float(matrix.detach()[len(matrix) // 2, matrix.shape[1] // 3]) for matrix in matrices[::step]]
