"""An eraser of several text streams: one for each, solved apart, side by side in one.

A denoiser that reads its text by several streams (SD3, FLUX: tokens and a pooled vector) has for each one its own
embeddings, its own reading maps and its own edit. A method knows of one stream only, so it runs once for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from efface.edits.kinds import Edit, TextEdit
from efface.eraser.eraser import Base, Eraser
from efface.models.model import TEXT


def joined(parts: Mapping[str, Eraser]) -> Eraser:
    """One eraser of those of each stream; `text` is among them, and alone it is that one."""
    main = parts[TEXT]
    if len(parts) == 1:
        return main
    edits = tuple(_of(edit, stream) for stream, part in parts.items() for edit in part.edits)
    others = {stream: part.base.embeddings for stream, part in parts.items() if stream != TEXT}
    inputs = {f"{stream}/{name}": tensor for stream, part in parts.items() for name, tensor in part.inputs.items()}
    seconds = [part.provenance["seconds"] for part in parts.values()]
    told: dict[str, Any] = {
        **main.provenance,
        "seconds": {name: sum(of_one[name] for of_one in seconds) for name in seconds[0]},
        "streams": {
            stream: {"edits": len(part.edits), "provenance": dict(part.provenance)} for stream, part in parts.items()
        },
    }
    return Eraser(main.request, edits, replace(main.base, streams=others), inputs, told)


def split(eraser: Eraser) -> dict[str, Eraser]:
    """What `joined` joined."""
    streams: Mapping[str, Any] = eraser.provenance.get("streams", {})
    if not streams:
        return {TEXT: eraser}
    parts: dict[str, Eraser] = {}
    first = 0
    for stream, told in streams.items():
        edits = tuple(_of(edit, TEXT) for edit in eraser.edits[first : first + told["edits"]])
        inputs = {
            name.removeprefix(f"{stream}/"): tensor
            for name, tensor in eraser.inputs.items()
            if name.startswith(f"{stream}/")
        }
        parts[stream] = Eraser(eraser.request, edits, _base(eraser.base, stream), inputs, told["provenance"])
        first += told["edits"]
    return parts


def _of(edit: Edit, stream: str) -> Edit:
    return replace(edit, stream=stream) if isinstance(edit, TextEdit) else edit


def _base(base: Base, stream: str) -> Base:
    embeddings = base.embeddings if stream == TEXT else base.streams[stream]
    return replace(base, embeddings=embeddings, streams={})
