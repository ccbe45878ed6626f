"""The edited text encoder alone: `CLIPTextModel.from_pretrained(DIR)`, with its tokenizer in the same folder.

Any pipeline with that text encoder can use it: `StableDiffusionPipeline.from_pretrained(..., text_encoder=...)`.
`efface.json` has the provenance.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.edits.kinds import WeightEdit
from efface.errors import BadInput
from efface.formats.base import Exported, Exporter
from efface.formats.folder import write_baked

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

_PART = "text_encoder"


def _write(eraser: Eraser, model: Model, path: Path, rank: int | None, force: bool) -> Exported:
    parts = {edit.parameter.partition(".")[0] if isinstance(edit, WeightEdit) else "denoiser" for edit in eraser.edits}
    if parts != {_PART}:
        raise BadInput(
            f"An eraser by {eraser.method} changes the {', '.join(sorted(parts - {_PART}))}, and this format has only "
            "the text encoder; export it as diffusers."
        )

    def save(folder: Path) -> None:
        encoder: Any = model.text_encoder
        encoder.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)

    return write_baked(eraser, model, path, force, save)


ENTRY = Exporter(
    name="text-encoder",
    summary="The edited text encoder with its tokenizer, for other pipelines: CLIPTextModel.from_pretrained(DIR).",
    suffix="",
    write=_write,
    part=_PART,
)
