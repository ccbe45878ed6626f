"""Erasers of models with several text streams: one solution for each stream, side by side in one record.

A denoiser that reads its text by several streams (SD3, FLUX: tokens and a pooled vector) has for each one its own
embeddings, its own reading maps and its own edit. A method knows of one stream only, so it runs once for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from efface.edits.kinds import Edit, TextEdit
from efface.edits.solution import Solution
from efface.eraser.record import Base, EraserRecord
from efface.models.model import TEXT


def join(solutions: Mapping[str, Solution], base: Base) -> EraserRecord:
    """The record of the solutions of each stream.

    Args:
        solutions: By stream; `text` is among them. Their notes are complete provenances.
        base: The base model, with the embeddings of all these streams.
    """
    main = solutions[TEXT]
    if len(solutions) == 1:
        return EraserRecord(main.request, main.edits, base, main.inputs, main.notes)
    edits = tuple(_of(edit, stream) for stream, part in solutions.items() for edit in part.edits)
    inputs = {f"{stream}/{name}": tensor for stream, part in solutions.items() for name, tensor in part.inputs.items()}
    seconds = [part.notes["seconds"] for part in solutions.values()]
    provenance: dict[str, Any] = {
        **main.notes,
        "seconds": {name: sum(of_one[name] for of_one in seconds) for name in seconds[0]},
        "streams": {
            stream: {"edits": len(part.edits), "provenance": dict(part.notes)} for stream, part in solutions.items()
        },
    }
    return EraserRecord(main.request, edits, base, inputs, provenance)


def split(eraser: EraserRecord) -> dict[str, Solution]:
    """The solutions that `join` joined, by stream."""
    streams: Mapping[str, Any] = eraser.provenance.get("streams", {})
    if not streams:
        return {TEXT: Solution(eraser.request, eraser.edits, eraser.inputs, eraser.provenance)}
    parts: dict[str, Solution] = {}
    first = 0
    for stream, of_stream in streams.items():
        edits = tuple(_of(edit, TEXT) for edit in eraser.edits[first : first + of_stream["edits"]])
        inputs = {
            name.removeprefix(f"{stream}/"): tensor
            for name, tensor in eraser.inputs.items()
            if name.startswith(f"{stream}/")
        }
        parts[stream] = Solution(eraser.request, edits, inputs, of_stream["provenance"])
        first += of_stream["edits"]
    return parts


def _of(edit: Edit, stream: str) -> Edit:
    return replace(edit, stream=stream) if isinstance(edit, TextEdit) else edit
