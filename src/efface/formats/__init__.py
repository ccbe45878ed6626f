"""File formats of other tools: exporters by name, and readers.

Other packages add exporters by the entry point group `efface.exporters`.
"""

from __future__ import annotations

from efface.formats.base import Exported, Exporter
from efface.registry import Registry

_BUILTIN = {
    "diffusers": "efface.formats.folder:ENTRY",
    "esd": "efface.formats.esd:ENTRY",
    "kohya": "efface.formats.kohya:ENTRY",
    "lora": "efface.formats.lora:ENTRY",
    "single-file": "efface.formats.single_file:ENTRY",
    "text-encoder": "efface.formats.text_encoder:ENTRY",
    "uce": "efface.formats.weights:ENTRY",
}

EXPORTERS: Registry[Exporter] = Registry("format", _BUILTIN, "efface.exporters")

__all__ = ["EXPORTERS", "Exported", "Exporter"]
