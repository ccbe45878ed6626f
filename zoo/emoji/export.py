"""Writes trained parts into the package as half-precision safetensors, in diffusers' Stable Diffusion layout.

    python export.py RUN [--package src/efface]

Parts that are not trained yet are random, so that code can be tested before they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

import train_unet
import train_vae
from captions import OBJECT_TEMPLATES, STYLED_TEMPLATES
from catalogue import HELD_OUT_CELLS, MEMORISED_CAPTION, STYLE_GUIDE, STYLE_WORDS, STYLES, THINGS
from common import Average
from efface.judges.emoji import JudgeNet

THRESHOLDS = {"object": 0.5, "style": 0.5}


def denoiser(run: Path) -> tuple[UNet2DConditionModel, float]:
    """The averaged denoiser and the latents' scale; random where there is no checkpoint."""
    unet = UNet2DConditionModel(**train_unet.CONFIG)
    if not (run / "unet.pt").exists():
        return unet, 1.0
    state = torch.load(run / "unet.pt", weights_only=True)
    average = Average(unet, 0.0)
    average.shadow = state["average"]
    average.copy_to(unet)
    return unet, state["scale"]


def export_pipeline(run: Path, out: Path) -> None:
    unet, scale = denoiser(run)
    folder = run / "vae"
    vae = AutoencoderKL.from_pretrained(folder) if folder.exists() else AutoencoderKL(**train_vae.CONFIG)
    vae.register_to_config(scaling_factor=scale)
    scheduler = DPMSolverMultistepScheduler(**train_unet.BETAS, steps_offset=1, timestep_spacing="trailing")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(run / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(run / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(out, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    for path in out.rglob("config.json"):
        # The path that a part was loaded from is private.
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def export_judge(run: Path, out: Path, version: str) -> None:
    net = JudgeNet(len(THINGS), len(STYLES))
    if (run / "judge.pt").exists():
        net.load_state_dict(torch.load(run / "judge.pt", weights_only=True)["model"])
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors")
    config = {"objects": [t.name for t in THINGS], "styles": list(STYLES), "thresholds": THRESHOLDS, "version": version}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def export_catalogue(path: Path) -> None:
    objects = [
        {
            "name": t.name,
            "synonyms": t.synonyms,
            "held_out": t.held_out,
            "near": [n for n in t.near if n in {u.name for u in THINGS}],
            "guide": t.guide,
            "theme": t.theme,
        }
        for t in THINGS
    ]
    styles = [{"name": s, "words": STYLE_WORDS[s], "guide": STYLE_GUIDE[s]} for s in STYLES]
    templates = [t.format(o="{object}", s="{style}") for t in (*OBJECT_TEMPLATES, *STYLED_TEMPLATES)]
    content = {
        "objects": objects,
        "styles": styles,
        "templates": templates,
        "held_out_cells": sorted(HELD_OUT_CELLS),
        "memorised": {"caption": MEMORISED_CAPTION},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--package", type=Path, default=Path("src/efface"))
    parser.add_argument("--version", default="1")
    args = parser.parse_args()
    home = args.package / "models" / "emoji"
    export_catalogue(home / "catalogue.json")
    export_judge(args.run, home / "judge", args.version)
    export_pipeline(args.run, home / "weights")
    if (args.run / "clip").exists():
        shutil.copytree(args.run / "clip", home / "clip", dirs_exist_ok=True)
    for part in sorted(home.rglob("*.safetensors")):
        print(f"{part.relative_to(home)}: {part.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
