"""An exporter: the factors of text edits as NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from efface import BadInput, Eraser, Model, TextEdit
from efface.files import atomic
from efface.formats.base import Exported, Exporter, provenance_json


def write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    """Write an .npz with L and R of each text edit, which turns an embedding e into e + L (R^T e)."""
    arrays: dict[str, Any] = {"provenance": np.array(provenance_json(eraser).encode())}
    for index, edit in enumerate(eraser.edits):
        if not isinstance(edit, TextEdit):
            raise BadInput(f"The format npz holds edits of the text; {eraser.method} changes weights.")
        arrays[f"left.{index}"], arrays[f"right.{index}"] = edit.left.numpy(), edit.right.numpy()
    with atomic(path, force) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return Exported(path, parameters=len(model.text_parameters()))


ENTRY = Exporter("npz", "the factors of a text edit, for NumPy", ".npz", write)
