"""The methods by name; other packages add theirs by the entry point `efface.methods`."""

from efface.methods.base import Method
from efface.registry import Registry

_BUILTIN = {
    "ablate": "efface.methods.trained.ablate.method:METHOD",
    "adavd": "efface.methods.guidance.adavd:METHOD",
    "certified": "efface.methods.closed_form.certified:METHOD",
    "cie": "efface.methods.trained.cie:METHOD",
    "cure": "efface.methods.closed_form.cure:METHOD",
    "esd": "efface.methods.trained.esd:METHOD",
    "negative": "efface.methods.guidance.negative:METHOD",
    "nullspace": "efface.methods.trained.nullspace.method:METHOD",
    "oce": "efface.methods.closed_form.oce:METHOD",
    "rece": "efface.methods.closed_form.rece:METHOD",
    "robust": "efface.methods.closed_form.robust.method:METHOD",
    "sepce": "efface.methods.trained.sepce:METHOD",
    "sld": "efface.methods.guidance.sld:METHOD",
    "speed": "efface.methods.closed_form.speed:METHOD",
    "uce": "efface.methods.closed_form.uce:METHOD",
}

METHODS: Registry[Method] = Registry("method", _BUILTIN, "efface.methods")

__all__ = ["METHODS", "Method"]
