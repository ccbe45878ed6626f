"""Every spelling of a model's parameters that files of researchers use, as a table to look them up in.

    diffusers      mid_block...to_k.weight, unet.mid_block..., text_encoder.encoder..., text_encoder.text_model...
    CompVis        model.diffusion_model.middle_block..., cond_stage_model.transformer.text_model.encoder...
    2.x            cond_stage_model.model.transformer.resblocks..., queries, keys and values as one tensor
    CompVis, EMA   model_ema.diffusion_modelmiddle_block...
    kohya          lora_unet_mid_block..., lora_te_text_model_encoder...

kohya's are of modules, the others of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from efface.models.storage import compvis

if TYPE_CHECKING:
    from efface.models import Model

_WRAPPERS = ("state_dict.", "model_state_dict.", "module.", "base_model.model.")
# What checkpoints hold beside parameters that an eraser may change: noise schedules, counters, other parts, and
# embeddings of words that were made for training (Concept Ablation).
_BESIDE = re.compile(
    r"(first_stage_model|vae|loss|optimizer|optimizer_states|lr_schedulers?|scheduler|callbacks|modifier_token)\."
    r"|(betas|alphas_cumprod|alphas_cumprod_prev|logvar|scale_factor|posterior_\w+|sqrt_\w+|log_one_minus\w+|embed)$"
    r"|model_ema\.(decay|num_updates)$|.*(position_ids|num_batches_tracked)$"
)


def unwrapped(name: str) -> str:
    """A name without what a training script wrapped around it."""
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            return unwrapped(name.removeprefix(wrapper))
    return name


def is_beside(name: str, ema: bool) -> bool:
    """Whether a tensor is none of the parameters in question: with `ema` the plain ones are not, else the EMA ones."""
    return bool(_BESIDE.match(name)) or name.startswith(compvis.DENOISER if ema else compvis.EMA)


def parameter_names(model: Model, ema: bool = False) -> dict[str, str]:
    """All spellings of the parameters of the denoiser and the text encoders, by full name ("denoiser.mid_block...")."""
    table: dict[str, str] = {}
    for part, name in _parameters(model):
        full = f"{part}.{name}"
        if part != "denoiser":
            flat = name.removeprefix("text_model.")
            table |= {f"{part}.{flat}": full, f"{part}.text_model.{flat}": full}
            if part == "text_encoder":
                spellings = (flat, f"text_model.{flat}", compvis.TEXT + flat)
                table |= {spelling: full for spelling in spellings if spelling not in table}
            continue
        original = original_name(model, name)
        if ema:
            table[compvis.ema_name(original)] = full
            continue
        table |= {f"{lead}{name}": full for lead in ("", "unet.", "transformer.", "denoiser.")}
        table |= {f"{lead}{original}": full for lead in ("", "diffusion_model.", compvis.DENOISER)}
    return table


def open_clip_names(model: Model) -> dict[str, list[tuple[str, int | None]]]:
    """By their names in a checkpoint of 2.x, the text encoder's parameters by full name, each with the third it is."""
    table: dict[str, list[tuple[str, int | None]]] = {}
    for part, name in _parameters(model):
        if part == "text_encoder":
            original, third = compvis.open_clip_name(name.removeprefix("text_model."))
            table.setdefault(original, []).append((f"{part}.{name}", third))
    return table


def kohya_name(part: str, module: str, two_encoders: bool) -> str:
    """What kohya calls a module of the denoiser or of a text encoder."""
    if part == "denoiser":
        return f"lora_unet_{module.replace('.', '_')}"
    number = {"text_encoder": "1", "text_encoder_2": "2"}[part] if two_encoders else ""
    # transformers 5 has the layers of a text encoder one level further up than these names say.
    return f"lora_te{number}_text_model_{module.removeprefix('text_model.').replace('.', '_')}"


def kohya_names(model: Model) -> dict[str, str]:
    """kohya's names of all modules, of text encoders numbered and not, with the full names of their weights."""
    table: dict[str, str] = {}
    for part, name in _parameters(model):
        module, full = name.removesuffix(".weight"), f"{part}.{name}"
        if module == name or part == "text_encoder_3":
            continue
        table |= {kohya_name(part, module, two_encoders=True): full}
        if part == "text_encoder":
            table |= {kohya_name(part, module, two_encoders=False): full}
        elif part == "denoiser":
            original = original_name(model, name).removesuffix(".weight")
            table |= {kohya_name(part, original, two_encoders=False): full}
    return table


def original_name(model: Model, name: str) -> str:
    """The CompVis name of a parameter of the denoiser; of what is no U-Net, its own."""
    config: Any = model.denoiser.config
    return compvis.unet_name(name, config) if "up_block_types" in config else name


def _parameters(model: Model) -> Iterator[tuple[str, str]]:
    for part in ("denoiser", *model.encoder_parts):
        for name, _ in model.part(part).named_parameters():
            yield part, name
