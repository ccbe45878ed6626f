"""Tables from the names of parameters in published files to the names in the model.

    diffusers      mid_block...to_k.weight, unet.mid_block..., text_encoder.encoder..., text_encoder.text_model...
    CompVis        model.diffusion_model.middle_block..., cond_stage_model.transformer.text_model.encoder...
    early merges   cond_stage_model.transformer.encoder...
    2.x            cond_stage_model.model.transformer.resblocks..., queries, keys and values as one tensor
    SDXL           conditioner.embedders.0.transformer.text_model..., conditioner.embedders.1.model... as in 2.x
    CompVis, EMA   model_ema.diffusion_modelmiddle_block...
    kohya          lora_unet_mid_block..., lora_te_text_model_encoder...

kohya's names are for modules, the others for parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from efface.models.storage import compvis

if TYPE_CHECKING:
    from efface.models import Model

_WRAPPERS = ("state_dict.", "model_state_dict.", "module.", "base_model.model.", "model.")
DENOISERS = ("", "unet.", "transformer.", "denoiser.", "diffusion_model.", compvis.DENOISER)
_COMPILED = re.compile(r"_orig_mod[._]")  # `torch.compile` inserts it at the module that it compiled
# Tensors in checkpoints that an eraser never changes: noise schedules, counters, other parts, and embeddings of words
# that exist only for training (Concept Ablation).
_UNRELATED = re.compile(
    r"(first_stage_model|vae|loss|optimizer|optimizer_states|lr_schedulers?|scheduler|callbacks|modifier_token)\."
    r"|(betas|alphas_cumprod|alphas_cumprod_prev|logvar|scale_factor|posterior_\w+|sqrt_\w+|log_one_minus\w+|embed)$"
    r"|(v_pred|ztsnr|model_ema\.decay|model_ema\.num_updates)$|.*(position_ids|num_batches_tracked)$"
)


def unwrapped(name: str) -> str:
    """A name without the prefixes of training scripts and of `torch.compile`."""
    name = _COMPILED.sub("", name)
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper) and not name.startswith(compvis.DENOISER):
            return unwrapped(name.removeprefix(wrapper))
    return name


def is_unrelated(name: str, ema: bool) -> bool:
    """Whether a tensor is to be ignored: it is no parameter of interest, or with `ema` a plain one, else an EMA one."""
    return bool(_UNRELATED.match(name)) or name.startswith(compvis.DENOISER if ema else compvis.EMA)


def parameter_names(model: Model, ema: bool = False) -> dict[str, str]:
    """From all spellings of parameters of denoiser and text encoders to full names ("denoiser.mid_block...")."""
    table, original_of = dict[str, str](), original_name(model)
    for part, name in _parameters(model):
        full = f"{part}.{name}"
        if part != "denoiser":
            flat = name.removeprefix("text_model.")
            table |= {f"{part}.{flat}": full, f"{part}.text_model.{flat}": full}
            if part == "text_encoder":
                # AdvUnlearn's encoder has a second name for each part, `embedding` for `embeddings`.
                second = re.sub(r"^embeddings\.", "embedding.", flat)
                # Early merges of 1.x leave out `text_model.`, as transformers 5 does.
                roots = ("", *(lead.removesuffix("text_model.") for lead in (compvis.TEXT, compvis.SDXL_TEXT)))
                spellings = (*(root + word + flat for root in roots for word in ("", "text_model.")), second)
                table |= {spelling: full for spelling in spellings if spelling not in table}
            continue
        original = original_of(name)
        if ema:
            table[compvis.ema_name(original)] = full
            continue
        table |= {f"{lead}{spelling}": full for lead in DENOISERS for spelling in (name, original)}
    return table


def open_clip_names(model: Model) -> dict[str, list[tuple[str, int | None]]]:
    """From names in checkpoints of 2.x and SDXL to the parameters of OpenCLIP's text encoder.

    Each parameter has its full name and, for queries, keys and values in one tensor, the index of its third.
    """
    table: dict[str, list[tuple[str, int | None]]] = {}
    for part, name in _parameters(model):
        prefix = {"text_encoder": compvis.OPEN_CLIP, "text_encoder_2": compvis.SDXL_OPEN_CLIP}.get(part)
        if prefix is not None:
            original, third = compvis.open_clip_name(name.removeprefix("text_model."), prefix)
            table.setdefault(original, []).append((f"{part}.{name}", third))
    return table


def kohya_name(part: str, module: str, two_encoders: bool) -> str:
    """The name of a module in kohya's files.

    Args:
        part: The denoiser or a text encoder.
        module: The module's name in diffusers.
        two_encoders: Whether text encoders are numbered.
    """
    if part == "denoiser":
        return f"lora_unet_{module.replace('.', '_')}"
    number = {"text_encoder": "1", "text_encoder_2": "2"}[part] if two_encoders else ""
    # transformers 5 has the layers of a text encoder one level higher than these names.
    return f"lora_te{number}_text_model_{module.removeprefix('text_model.').replace('.', '_')}"


def kohya_names(model: Model) -> dict[str, str]:
    """From kohya's names of all modules to the full names of weights.

    Names of text encoders are with and without a number, and with and without `text_model_`.
    """
    table, original_of = dict[str, str](), original_name(model)
    for part, name in _parameters(model):
        module, full = name.removesuffix(".weight"), f"{part}.{name}"
        if module == name or part == "text_encoder_3":
            continue
        names = [kohya_name(part, module, two_encoders=True)]
        if part == "text_encoder":
            names.append(kohya_name(part, module, two_encoders=False))
        if part != "denoiser":
            names += [spelling.replace("_text_model_", "_", 1) for spelling in names]
        table |= dict.fromkeys(names, full)
        if part == "denoiser":
            original = original_of(name).removesuffix(".weight")
            table |= {kohya_name(part, original, two_encoders=False): full}
    return table


def original_name(model: Model) -> Callable[[str], str]:
    """A function from a parameter of a U-Net to its CompVis name; for another denoiser, to the name itself."""
    config = model.config(model.denoiser_part)
    return partial(compvis.unet_name, config=config) if "up_block_types" in config else str


def _parameters(model: Model) -> Iterator[tuple[str, str]]:
    for part in ("denoiser", *model.encoder_parts):
        for name, _ in model.part(part).named_parameters():
            yield part, name
