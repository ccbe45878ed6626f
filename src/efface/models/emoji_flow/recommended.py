"""What suits `emoji-flow` better than the published defaults, by method (benchmarks/results/carry_over.md)."""

from __future__ import annotations

from typing import Final

from efface.models.builtin import Recommended
from efface.request.record import Kind
from efface.settings import Scalar

_KINDS: Final[tuple[Kind, ...]] = ("object", "style", "memorised", "unsafe")
#: The published script trains the attention alone, at a learning rate for a model a thousand times larger.
_ESD: Final[dict[str, Scalar]] = {
    "train_method": "esd-all",
    "lr": 5e-4,
    "batch_size": 4,
    "iterations": 60,
    "sampler": "own",
    "ddim_steps": 20,
}
_ESD_STYLE: Final[dict[str, Scalar]] = {**_ESD, "train_method": "esd-x", "iterations": 80}
_SEPCE: Final[dict[str, Scalar]] = {
    "scale_factor": 0.01,
    "threshold": 0.0,
    "batch_size": 4,
    "iter_break": 100,
    "images": 24,
    "repeat_images": True,
    "sampler": "own",
}
_ABLATE: Final[dict[str, Scalar]] = {"sampler": "own", "guidance_scale": 4.0, "sampling_steps": 10, "train_size": 32}

RECOMMENDED = {
    **dict.fromkeys(("uce", "certified", "speed", "oce", "rece"), Recommended(guides=True)),
    "ablate": Recommended(guides=True, settings=dict.fromkeys(_KINDS, _ABLATE)),
    "esd": Recommended(settings={**dict.fromkeys(_KINDS, _ESD), "style": _ESD_STYLE}),
    "sepce": Recommended(settings=dict.fromkeys(_KINDS, _SEPCE)),
}
