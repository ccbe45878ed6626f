"""The registry of methods by name. Other packages add methods with the entry point `efface.methods`."""

from __future__ import annotations

from efface.methods.base import Method
from efface.registry import Registry

_BUILTIN = {
    "ablate": "efface.methods.trained.ablate.method:ENTRY",
    "adavd": "efface.methods.guidance.adavd:ENTRY",
    "certified": "efface.methods.closed_form.certified:ENTRY",
    "cie": "efface.methods.trained.cie:ENTRY",
    "cure": "efface.methods.closed_form.cure:ENTRY",
    "esd": "efface.methods.trained.esd:ENTRY",
    "lora": "efface.methods.trained.lora.method:ENTRY",
    "negative": "efface.methods.guidance.negative:ENTRY",
    "nullspace": "efface.methods.trained.nullspace.method:ENTRY",
    "oce": "efface.methods.closed_form.oce:ENTRY",
    "rece": "efface.methods.closed_form.rece:ENTRY",
    "robust": "efface.methods.closed_form.robust.method:ENTRY",
    "sepce": "efface.methods.trained.sepce:ENTRY",
    "sld": "efface.methods.guidance.sld:ENTRY",
    "speed": "efface.methods.closed_form.speed:ENTRY",
    "uce": "efface.methods.closed_form.uce:ENTRY",
}

METHODS: Registry[Method] = Registry("method", _BUILTIN, "efface.methods")

__all__ = ["METHODS", "Method"]
