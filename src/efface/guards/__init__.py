"""What acts while a model runs and changes no weight, by name; other packages add theirs by `efface.guards`.

A guard is made from its part of an eraser and a denoiser, on which it puts hooks; so it works in a diffusers pipeline
as it does in efface's own sampler, without either knowing. An eraser's file holds its name, tensors and settings, never
code.
"""

from efface.guards.base import Guard
from efface.registry import Registry

_BUILTIN = {
    "adavd": "efface.guards.adavd:AdaVd",
    "negative": "efface.guards.negative:Negative",
    "sld": "efface.guards.sld:Sld",
}

GUARDS: Registry[type[Guard]] = Registry("guard", _BUILTIN, "efface.guards")

__all__ = ["GUARDS", "Guard"]
