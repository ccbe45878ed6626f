"""Whether a model is one that an eraser can be put on: it embeds a few prompts alike, and has the weights to be edited.

Weights are known by SHA-256. A model may be loaded in half precision, so each weight has two digests: rounded to
float16 and to bfloat16. One that is equal means the same weights up to the coarser of both models' types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.edits import TextEdit, WeightEdit
from efface.errors import WrongBase
from efface.files import sha256_of_tensors
from efface.probed import Known, known_of

if TYPE_CHECKING:
    from efface.eraser import Eraser
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
