"""Whether a model is one that an eraser can be put on."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from efface.edits import TextEdit
from efface.errors import WrongBase

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.models import Model

# Half precision reproduces an embedding to 1e-3 or so; another text encoder is off by 1.
TOLERANCE = 1e-2


def check_base(eraser: Eraser, model: Model, force: bool = False) -> None:
    """Check that `model` embeds the eraser's probes as its base did.

    Raises:
        WrongBase: it does not; `force` lets all pass but another width.
    """
    made_for = f"The eraser was made for {eraser.base.model}"
    for edit in eraser.edits:
        if isinstance(edit, TextEdit) and edit.dim != model.width:
            raise WrongBase(f"{made_for}, {edit.dim} wide; the text of {model.name} is {model.width} wide.")
    if eraser.base.probes and eraser.base.embeddings.shape[1] != model.width:
        wide = eraser.base.embeddings.shape[1]
        raise WrongBase(f"{made_for}, {wide} wide; the text of {model.name} is {model.width} wide.")
    if force or not eraser.base.probes:
        return
    if not model.has_text_encoder:
        warnings.warn(f"{made_for}; {model.name} has no text encoder to check that against.", stacklevel=3)
        return
    expected = eraser.base.embeddings
    found = model.embed(eraser.base.probes, clip_skip=eraser.request.clip_skip, truncate=True).last_tokens
    error = float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
    if not error <= TOLERANCE:
        raise WrongBase(
            f"{made_for}; {model.name} embeds '{eraser.base.probes[0]}' differently (relative error {error:.2g}). "
            "Erase on this model, or pass --force if you know better."
        )
