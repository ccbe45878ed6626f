"""What suits `emoji` better than the published defaults, by method: guides, and settings of the methods that train.

The published guides are for models with a large vocabulary; `emoji` forgets more if an object or a style turns into a
neighbour (benchmarks/results/defaults.md). The published learning rates are for models a hundred times larger. The
rates of these settings are in trained_quality.md, method_defaults.md and closed_form_defaults.md of benchmarks/results.
"""

from __future__ import annotations

from typing import Final

from efface.models.builtin import Recommended
from efface.request.record import Kind

Settings = dict[str, bool | int | float | str]

_KINDS: Final[tuple[Kind, ...]] = ("object", "style", "memorised", "unsafe")
#: With the published templates too, other objects and styles change.
_BARE: Final[Settings] = {"expand_prompts": False}

#: The bare concept alone is forgotten less often in sentences and in styles.
_IN_SENTENCES: Final[Settings] = {
    "sentences": True,
    "target": "text",
    "epochs": 3,
    "adam_steps": 15,
    "min_directions": 128,
    "lamb": 25.0,
}
#: One direction is not enough: in a sentence, the words that follow name the concept too.
_TEMPLATES: Final[Settings] = {"expand_prompts": True, "alpha": 1000.0}
_LAST: Final[Settings] = {"tokens": "last"}
_ESD: Final[Settings] = {"train_method": "esd-x-strict", "lr": 7e-4, "batch_size": 4, "iterations": 180}
_LORA: Final[Settings] = {
    "network": "attention",
    "training_method": "xattn",
    "rank": 16,
    "alpha": 16.0,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "batch_size": 4,
    "iterations": 180,
    "guidance_scale": 2.0,
    "neutral": "{target}",
    "latents": "frozen",
}
_ABLATE: Final[Settings] = {"base_lr": 2.5e-4, "teacher": "frozen", "train_size": 48, "sampling_steps": 20}
_ABLATE_LESS: Final[Settings] = {**_ABLATE, "parameter_group": "cross-attn", "regularization": False}
#: The published loss, whose values do not suit styles.
_CIE: Final[Settings] = {"lr": 1e-4, "batch_size": 4, "iter_break": 200, "threshold": -0.0015, "repeat_images": True}
_CIE_RELATIVE: Final[Settings] = {**_CIE, "relative": True, "iter_break": 300, "threshold": -2.0, "reg_beta": 0.9}
_CIE_KEYS: Final[Settings] = {**_CIE_RELATIVE, "train_method": "esd-x-strict", "iter_break": 100, "threshold": -1.0}
_SEPCE: Final[Settings] = {"scale_factor": 0.01, "threshold": 0.0, "repeat_images": True}

RECOMMENDED = {
    **dict.fromkeys(("uce", "certified", "robust"), Recommended(guides=True)),
    # A style is read with keys too, and less similar to its bare name in a sentence than an object.
    "speed": Recommended(guides=True, settings={"style": {"params": "KV"}}),
    "adavd": Recommended(settings={"style": {"sigmoid_b": 0.3}}),
    "oce": Recommended(guides=True, settings=dict.fromkeys(_KINDS, _BARE)),
    "cure": Recommended(settings={"object": _TEMPLATES, "style": _TEMPLATES}),
    # With all tokens of a prompt, the other styles change too.
    "rece": Recommended(guides=True, settings=dict.fromkeys(_KINDS, _LAST)),
    "nullspace": Recommended(guides=True, settings=dict.fromkeys(_KINDS, _IN_SENTENCES)),
    "esd": Recommended(
        settings={
            "object": {**_ESD, "lr": 5e-4},
            "style": _ESD,
            "memorised": {**_ESD, "lr": 1e-3, "batch_size": 1, "iterations": 200},
            "unsafe": {**_ESD, "iterations": 270, "together": True},
        }
    ),
    "lora": Recommended(settings={"object": _LORA, "style": {**_LORA, "lr": 1.5e-3}}),
    "ablate": Recommended(
        guides=True,
        settings={
            "object": {**_ABLATE, "aug": False},  # an image of 64 pixels that is shrunk loses what tells objects apart
            "style": _ABLATE,
            "memorised": {**_ABLATE_LESS, "train_max_steps": 100},
            "unsafe": {**_ABLATE_LESS, "train_max_steps": 160},
        },
    ),
    "cie": Recommended(
        settings={
            "object": _CIE,
            "style": _CIE_RELATIVE,
            "memorised": _CIE_KEYS,
            "unsafe": _CIE_KEYS,
        }
    ),
    "sepce": Recommended(
        settings={
            "object": _SEPCE,
            "style": {**_SEPCE, "threshold": -4e-4},
            "memorised": _SEPCE,
            "unsafe": _SEPCE,
        }
    ),
}
