"""Golden cases of erasers: every method in several settings, fewer and more of its concepts, other families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Lab, Value, joined, sha

import efface
from efface import BadInput, Concept, Eraser, Request

Options = dict[str, Any]
Function = Callable[[Lab], Value]

CONCEPTS, GUIDES, PRESERVE = ("cat", "church"), ("dog", "house"), ("a tiger", "a castle in 3d style")
#: What tiny models' tokenizers have as words.
TINY_CONCEPTS, TINY_GUIDE, TINY_PRESERVE = ("cat", "golf ball"), "dog", ("a horse", "blue bird")
TOGETHER: Options = {"to": GUIDES, "preserve": PRESERVE}

#: How much a method that trains does here.
FEW: dict[str, Options] = {
    "nullspace": {"epochs": 1, "adam_steps": 2, "batch_size": 2, "sampling_steps": 2, "everyday": False},
    "robust": {"rounds": 2},
    "esd": {"iterations": 2, "ddim_steps": 3, "reuse": 2, "lr": 1e-3},
    "ablate": {"train_max_steps": 2, "train_size": 4, "batch_size": 2, "sampling_steps": 2, "base_lr": 1e-3},
    "cie": {"iter_break": 2, "images": 2, "sampling_steps": 2, "lr": 1e-3},
    "sepce": {"iter_break": 2, "images": 2, "sampling_steps": 2, "scale_factor": 1e-2},
}
_TRAIN_METHODS = ("xattn", "noxattn", "selfattn", "full", "notime", "esd-x", "esd-x-strict", "esd-u", "esd-all")
#: Settings of each method, beside its defaults; tiny models get the first few.
SETTINGS: dict[str, list[Options]] = {
    "uce": [
        {"variant": "window"},
        {"variant": "window", "technique": "tensor"},
        {"technique": "tensor"},
        {"expand_prompts": True},
        {"erase_scale": 2.0, "preserve_scale": 0.1, "lamb": 1.0},
        {"lamb": 0.0},
        {"kind": "style"},
        {"kind": "unsafe"},
        {"kind": "memorised"},
        {"clip_skip": 1},
        {"certify": True},
    ],
    "rece": [
        {"epochs": 2, "certify": True},
        {"epochs": 2, "emb_computing": "close_surrogatereg"},
        {"epochs": 2, "emb_computing": "close_standardreg"},
        {"epochs": 2, "reg_item": "2nd", "regular_scale": 0.1},
        {"epochs": 2, "reg_item": "both", "uce.lamb": 0.2, "uce.variant": "token"},
        {"kind": "style"},
        {"kind": "unsafe"},
    ],
    "certified": [
        {"tokens": "window"},
        {"preserve_tokens": "all", "preserve_rank": 2},
        {"expand_prompts": True, "mu": 0.0},
        {"concept_rank": 2, "cut": 0.01},
        {"kind": "style"},
        {"kind": "unsafe"},
    ],
    "cure": [
        {"alpha": 2.0, "certify": True},
        {"tokens": "last"},
        {"tokens": "window"},
        {"retain_empty": False},
        {"kind": "style"},
        {"kind": "unsafe"},
    ],
    "oce": [
        {"expand_prompts": False},
        {"erase_scale": 2.0, "preserve_concept_scale": 0.5, "preserve_global_scale": 0.5, "lamb": 0.1},
        {"kind": "style"},
    ],
    "speed": [
        {"params": "K"},
        {"params": "KV", "aug_num": 3, "seed": 1},
        {"disable_filter": True, "threshold": 0.05},
        {"retain_scale": 0.1, "lamb": 0.1},
        {"kind": "style"},
    ],
    "adavd": [
        {"joint": True},
        {"token_sim": False, "sigmoid_a": 50.0, "sigmoid_b": 0.9, "sigmoid_c": 1.0},
        {"kind": "style"},
    ],
    "sld": [{"preset": preset} for preset in ("weak", "strong", "max")]
    + [{"sld_warmup_steps": 1, "sld_guidance_scale": 3000.0, "sld_momentum_scale": 0.2, "kind": "unsafe"}],
    "negative": [{"kind": "style"}],
    "nullspace": [
        {"everyday": True, "epochs": 2},
        {"shared_projector": True, "protect_own": True},
        {"sigma_noise": True, "previous": True, "seed": 1},
        {"layers": "2,3", "lamb": 100.0},
    ],
    "robust": [
        {"solve": "uce"},
        {"derive": "text", "neighbours": 2},
        {"derive": "none"},
        {"gradient": 2, "images": 1, "rounds": 1},
        {"certify": True, "preserve_rank": 1, "threshold": 0.8},
    ],
    "esd": [
        *({"train_method": name} for name in _TRAIN_METHODS),
        {"preset": "2023"},
        {"target": "null", "latents": "edited", "train_method": "xattn"},
        {"sampler": "own", "train_method": "xattn", "batch_size": 2, "gradient_accumulation_steps": 2},
        {"together": True, "train_method": "xattn"},
        {"erase_from": "an animal", "train_method": "esd-x", "mixed_precision": "bf16"},
        {"compvis_quirk": True, "preset": "2023", "seed": 1},
        {"mu_quirk": True, "train_method": "noxattn"},
    ],
    "ablate": [
        {"kind": "style"},
        {"parameter_group": "embedding"},
        {"parameter_group": "full-weight"},
        {"parameter_group": "attn", "loss_type_reverse": "noise-based"},
        {"teacher": "frozen", "regularization": True, "aug": False, "hflip": False, "seed": 1},
    ],
    "cie": [{"batch_size": 2, "accumulate_grads": True}, {"sampler": "ddim", "reg_beta": 1e-3, "seed": 1}],
    "sepce": [
        {"training": "joint"},
        {"training": "joint", "balance": "max", "batch_size": 2},
        {"basis": "published", "tolerance": 0.1},
    ],
}
#: What tiny models need besides.
TINY_FEW: dict[str, Options] = {"nullspace": {"layers": "0,1"}, "sepce": {"tolerance": 0.1}}
TINY_SETTINGS = 2
TINY_TRAINED = ("nullspace", "robust", "esd", "ablate", "cie", "sepce")


def options_of(method: str, **more: Any) -> Options:
    return {"method": method, **FEW.get(method, {}), **more}


def _label(options: Options) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def _or_refusal(lab: Lab, make: Callable[[], Eraser]) -> Value:
    """The value of an eraser; of a refusal that it is one, and of which class."""
    try:
        return lab.of_eraser(make())
    except BadInput as error:
        return {"exact": f"refused: {type(error).__name__}", "near": {}}


def _erased(options: Options, model: str = "emoji", concepts: tuple[str, ...] = CONCEPTS) -> Function:
    return lambda lab: _or_refusal(lab, lambda: lab.erase(*concepts, model=model, **options))


def _split(method: str, settings: Options) -> Function:
    """One concept left of two, by `only` and by `without`, with and without the model."""

    def value(lab: Lab) -> Value:
        eraser, model = lab.erase(*CONCEPTS, **TOGETHER, **settings), lab.model()
        bare = _or_refusal(lab, lambda: eraser.only("cat"))
        rest = _or_refusal(lab, lambda: eraser.without("cat", model=model))
        return joined(bare=bare, only=_or_refusal(lab, lambda: eraser.only("cat", model=model)), without=rest)

    return value


def _composed(*makers: Options, one: str = "") -> Function:
    """Several erasers as one; with `one`, that concept given back."""

    def value(lab: Lab) -> Value:
        def make() -> Eraser:
            parts = [lab.erase(**options) if "concepts" not in options else _of(lab, options) for options in makers]
            whole = efface.compose(*parts)
            return whole.without(one, model=lab.model()) if one else whole

        return _or_refusal(lab, make)

    return value


def _of(lab: Lab, options: Options) -> Eraser:
    options = dict(options)
    return lab.erase(*options.pop("concepts"), **options)


def _request(lab: Lab) -> Value:
    """All that a request can say, and its YAML file."""
    concepts = (
        Concept(name="cat", guide="dog", aliases=("kitty",), adjacent=("tiger",), adversarial=("c4t",)),
        Concept(name="pixel art", kind="style"),
        Concept(name="bomb", kind="unsafe"),
    )
    request = Request(concepts=concepts, preserve=PRESERVE, method="uce", options={"lamb": 0.2}, clip_skip=2)
    request.to_yaml("request.yaml")
    again = Request.from_yaml("request.yaml")
    assert again == request
    value = lab.of_eraser(efface.erase(lab.model(), again, preset="published"))
    return {**value, "exact": {**value["exact"], "yaml": sha(Path("request.yaml").read_text())}}


def _without_pooled(lab: Lab) -> Value:
    request = Request.model_validate({"concepts": [{"name": "cat", "guide": "dog"}], "pooled": False})
    return lab.of_eraser(efface.erase(lab.model("flux"), request))


def _memorised(lab: Lab) -> Value:
    """A memorised picture is one of the model's own."""
    assert lab.run("generate", "a star", "-n", 1, "--steps", 2, "-o", "drawn").code == 0
    picture = next(Path("drawn").glob("*.png"))
    options = options_of("ablate", kind="memorised", mem_impath=str(picture), preset="published")
    return _or_refusal(lab, lambda: efface.erase(lab.model(), "a star", to="a flower", **options))


def cases() -> dict[str, Function]:
    """All of them by name."""
    found: dict[str, Function] = {"request": _request, "erase/ablate/memorised": _memorised}
    for method, several in SETTINGS.items():
        for settings in ({}, *several):
            options = options_of(method, **settings)
            found[f"erase/{method}/{_label(settings)}"] = _erased({**TOGETHER, **options})
        options = options_of(method)
        found[f"erase/{method}/no guide"] = _erased({**options, "preserve": PRESERVE}, concepts=("cat",))
        found[f"erase/{method}/nothing preserved"] = _erased({**options, "to": "dog"})
        found[f"split/{method}"] = _split(method, options)
        alone = [{"concepts": (name,), "to": to, **options} for name, to in zip(CONCEPTS, GUIDES, strict=True)]
        found[f"compose/{method}"] = _composed(*alone)
        for model in ("sd", "sdxl", "sd3", "flux"):
            for settings in ({}, *several[:TINY_SETTINGS]):
                if method in TINY_TRAINED and (settings or model != "sd"):
                    continue
                options = options_of(method, **TINY_FEW.get(method, {}), **settings)
                options = {"to": TINY_GUIDE, "preserve": TINY_PRESERVE, **options}
                found[f"{model}/{method}/{_label(settings)}"] = _erased(options, model, TINY_CONCEPTS)
    for name, settings in {
        "uce window": options_of("uce", variant="window"),
        "uce tensor": options_of("uce", variant="window", technique="tensor"),
        "robust uce": options_of("robust", solve="uce"),
        "esd together": options_of("esd", together=True, train_method="xattn"),
        "sepce joint": options_of("sepce", training="joint"),
        "adavd joint": options_of("adavd", joint=True),
        "certified window": options_of("certified", tokens="window"),
    }.items():
        found[f"split/{name}"] = _split(name, settings)
    found["flux/uce/not pooled"] = _without_pooled
    cat = {"concepts": ("cat",), "to": "dog"}
    church, tiger = {"concepts": ("church",), "to": "house"}, {"concepts": ("tiger",), "to": "horse"}
    xattn = options_of("esd", train_method="esd-x-strict")
    for name, makers in {
        "uce+cure": [cat | options_of("uce"), church | options_of("cure")],
        "cure+uce": [church | options_of("cure"), cat | options_of("uce")],
        "uce+uce of other settings": [cat | options_of("uce"), church | options_of("uce", lamb=1.0)],
        "esd+oce": [cat | xattn, church | options_of("oce")],
        "uce+esd": [cat | options_of("uce"), church | xattn],
        "uce+sld": [cat | options_of("uce"), church | options_of("sld")],
        "adavd+negative": [cat | options_of("adavd"), church | options_of("negative")],
        "three": [cat | options_of("uce"), church | options_of("cure"), tiger | options_of("uce")],
        "certified+certified+uce": [
            cat | options_of("certified"), church | options_of("certified"), tiger | options_of("uce"),
        ],
        "twice the same": [cat | options_of("uce"), cat | options_of("uce")],
        "two guides of one": [cat | options_of("uce"), cat | options_of("uce") | {"to": "tiger"}],
    }.items():  # fmt: skip
        found[f"compose/{name}"] = _composed(*makers)
        if "church" in [one for maker in makers for one in maker["concepts"]]:
            found[f"compose/{name}, one given back"] = _composed(*makers, one="church")
    return found
