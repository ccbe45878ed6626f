"""The methods by name; other packages add theirs by the entry point `efface.methods`."""

from efface.methods.base import Method
from efface.registry import Registry

_BUILTIN = {
    "adavd": "efface.methods.adavd:METHOD",
    "certified": "efface.methods.certified:METHOD",
    "cie": "efface.methods.cie:METHOD",
    "cure": "efface.methods.cure:METHOD",
    "esd": "efface.methods.esd:METHOD",
    "negative": "efface.methods.negative:METHOD",
    "nullspace": "efface.methods.nullspace:METHOD",
    "oce": "efface.methods.oce:METHOD",
    "rece": "efface.methods.rece:METHOD",
    "robust": "efface.methods.robust:METHOD",
    "sepce": "efface.methods.sepce:METHOD",
    "sld": "efface.methods.sld:METHOD",
    "speed": "efface.methods.speed:METHOD",
    "uce": "efface.methods.uce:METHOD",
}

METHODS: Registry[Method] = Registry("method", _BUILTIN, "efface.methods")

__all__ = ["METHODS", "Method"]
