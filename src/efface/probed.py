"""How models embed erasers' probes, remembered: embedding takes longer than attaching an eraser may."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from torch import Tensor, nn

    from efface.eraser import Eraser
    from efface.models import Model

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
