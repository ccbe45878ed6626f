"""An older diffusers: `from_pretrained` on a folder, `load_lora_weights` on a LoRA, `load_state_dict` on weights.

For a folder, the difference is that of the image from the erased model's, in the range 0 to 1, and `change` that of the
unedited model's image.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor

from clients.common import Family, Loaded, arguments, run

PROMPT, STEPS, SIDE = "a photo of a cat", 4, 64


def load(family: Family, case: dict[str, Any]) -> Loaded:
    path = family.folder / case["name"]
    pipe: Any = diffusers
    if case["format"] == "diffusers":
        opened = pipe.DiffusionPipeline.from_pretrained(path, torch_dtype=torch.float32)
        return Loaded(0, {"image": image(opened)})
    opened = pipe.DiffusionPipeline.from_pretrained(family.folder / "model")
    if case["format"] == "lora":
        opened.load_lora_weights(path.parent, weight_name=path.name)
        opened.fuse_lora()
        opened.unload_lora_weights()
        return Loaded(case["keys"], weights(opened))
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    unexpected = opened.unet.load_state_dict(state, strict=case["format"] == "esd").unexpected_keys
    return Loaded(case["keys"] - len(unexpected), weights(opened))


def weights(pipe: Any) -> dict[str, Tensor]:
    """The weights of denoiser and text encoders, (...), by name."""
    parts = {name: getattr(pipe, name, None) for name in ("unet", "text_encoder", "text_encoder_2")}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        if module is not None
        for name, tensor in module.state_dict().items()
        if "position_ids" not in name
    }


def image(pipe: Any) -> Tensor:
    """The image of a pipeline, of shape (1, 3, height, width), from 0 to 1."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        PROMPT, num_inference_steps=STEPS, height=SIDE, width=SIDE, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images.contiguous()  # fmt: skip


def main() -> None:
    _, folders = arguments()
    run(load, ("diffusers", "lora", "uce", "esd"), folders)


if __name__ == "__main__":
    main()
