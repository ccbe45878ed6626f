"""Writes the trained parts into the package as half-precision safetensors, in diffusers' FLUX.1 layout.

    python export_flow.py RUN [--out src/efface/models/emoji_flow/weights]

The CLIP text encoder and the autoencoder are those of `emoji`. FLUX shifts its latents and `emoji` does not, so the
shift is 0. The averaged weights of the last checkpoint are exported, also while the training still runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from common import Average
from efface.models.emoji import HERE
from train_transformer import new_transformer

SHIFT = 2.0


def trained_pipeline(run: Path) -> FluxPipeline:
    """The pipeline with the averaged weights of the last checkpoint."""
    transformer = new_transformer()
    average = Average(transformer, 0.0)
    average.shadow = torch.load(run / "transformer.pt", weights_only=True)["average"]
    average.copy_to(transformer)
    vae = AutoencoderKL.from_pretrained(HERE / "weights" / "vae")
    vae.register_to_config(shift_factor=0.0)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(HERE / "weights" / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(HERE / "weights" / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(run / "text_encoder_2"),
        tokenizer_2=T5Tokenizer.from_pretrained(run / "tokenizer_2"),
        transformer=transformer,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/efface/models/emoji_flow/weights"))
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    trained_pipeline(args.run).to(dtype=torch.float16).save_pretrained(args.out, safe_serialization=True)
    for path in args.out.rglob("config.json"):
        # The path that a part was loaded from is private.
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for part in sorted(args.out.rglob("*.safetensors")):
        print(f"{part.relative_to(args.out)}: {part.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
