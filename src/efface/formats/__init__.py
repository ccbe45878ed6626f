"""File formats of other tools: exporters by name, and readers.

Other packages add exporters by the entry point group `efface.exporters`.
"""

from __future__ import annotations

from efface.formats.base import Exported, Exporter
from efface.registry import Registry

_BUILTIN = {
    "diffusers": "efface.formats.folder:EXPORTER",
    "kohya": "efface.formats.kohya:EXPORTER",
    "lora": "efface.formats.lora:EXPORTER",
    "single-file": "efface.formats.single_file:EXPORTER",
    "uce": "efface.formats.weights:EXPORTER",
}

EXPORTERS: Registry[Exporter] = Registry("format", _BUILTIN, "efface.exporters")

__all__ = ["EXPORTERS", "Exported", "Exporter"]
