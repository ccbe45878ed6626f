"""The methods by name; other packages add theirs by the entry point `efface.methods`."""

from efface.methods.base import Method
from efface.registry import Registry

METHODS: Registry[Method] = Registry("method", {"uce": "efface.methods.uce:METHOD"}, "efface.methods")

__all__ = ["METHODS", "Method"]
