"""Trains the image tower against the frozen text tower, so that images have CLIP scores without a download.

    python train_clip.py RUN --steps 1500

The symmetric contrastive loss of https://arxiv.org/abs/2103.00020 with the text tower locked
(https://arxiv.org/abs/2111.07991); only its projection learns. Batches hold distinct emoji, so that no caption
fits two pictures. Writes RUN/clip: the configuration, the image tower and both projections.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from captions import BY_NAME, OBJECT_TEMPLATES, STYLED_TEMPLATES, pick, words
from catalogue import STYLE_WORDS
from common import Checkpoint, Log, learning_rate
from make_tokenizer import phrases
from muon import Muon
from train_judge import augment, to_tensor
from train_unet import Text

BATCH, MUON_LR, ADAM_LR = 96, 0.01, 1e-3
MEAN, STD = [0.5] * 3, [0.5] * 3


def configuration(text: Text) -> CLIPConfig:
    vision = dict(
        image_size=64,
        patch_size=8,
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        hidden_act="quick_gelu",
    )
    # Whence and in which type the tower was loaded is no part of what it is.
    words = {k: v for k, v in text.tower.config.to_dict().items() if k not in ("_name_or_path", "dtype")}
    return CLIPConfig(text_config={**words, "dtype": "float32"}, vision_config=vision, projection_dim=256)


def caption(rng: np.random.Generator, row: dict, groups: dict[str, list[str]]) -> str:
    look = pick(rng, STYLE_WORDS[row["style"]])
    thing = BY_NAME.get(row["object"])
    word = pick(rng, words(thing, held_out=True) if thing else tuple(groups[row["codepoint"]]))
    if rng.random() < 0.6:
        return pick(rng, STYLED_TEMPLATES).format(o=word, s=look)
    return pick(rng, OBJECT_TEMPLATES).format(o=word)


def trained_part(model: CLIPModel) -> dict[str, torch.Tensor]:
    """Everything but the text tower, which the pipeline already ships."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("text_model.")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    rows = json.loads((args.run / "pictures.json").read_text())[:-1]
    pixels = np.load(args.run / "pictures.npy", mmap_mode="r")
    groups, by_point = phrases(), {}
    for i, row in enumerate(rows):
        by_point.setdefault(row["codepoint"], []).append(i)
    inside = [t.codepoints[0] for t in BY_NAME.values()]
    outside = sorted(set(by_point) - set(inside))
    torch.manual_seed(4)
    text = Text(args.run)
    model = CLIPModel(configuration(text)).float()
    model.text_model.load_state_dict(text.tower.state_dict())
    model.text_model.requires_grad_(False)
    learned = nn.ModuleDict(
        {"vision": model.vision_model, "see": model.visual_projection, "read": model.text_projection}
    )
    learned.register_parameter("scale", model.logit_scale)
    optimiser = Muon(learned, MUON_LR, ADAM_LR, ("embedding", "see", "read"))
    checkpoint, log = Checkpoint(args.run / "clip.pt", model, optimiser), Log(args.run / "clip.jsonl")
    for step in checkpoint.steps(args.steps, every=300):
        rng, g = np.random.default_rng([5, step]), torch.Generator().manual_seed(step)
        points = [*rng.permutation(inside)[:40], *rng.permutation(outside)[: BATCH - 40]]
        chosen = [int(rng.choice(by_point[p])) for p in points]
        texts = [caption(rng, rows[i], groups) for i in chosen]
        x = augment(to_tensor(pixels[np.array(chosen)]), g)
        states = model.text_model(text.tokenizer(texts, padding=True, return_tensors="pt").input_ids).pooler_output
        with torch.autocast("cpu", torch.bfloat16):
            features = model.visual_projection(model.vision_model(x).pooler_output)
        f, t = F.normalize(features.float(), dim=1), F.normalize(model.text_projection(states), dim=1)
        logits = model.logit_scale.clamp(max=4.6).exp() * f @ t.T
        target = torch.arange(len(f))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.schedule(learning_rate(step + 1, args.steps, 1.0, 100))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 50 == 0:
            right = (logits.argmax(1) == target).float().mean().item()
            log(step=step + 1, loss=round(loss.item(), 4), right=round(right, 3))
    out = args.run / "clip"
    out.mkdir(exist_ok=True)
    model.config.save_pretrained(out)
    save_file({k: v.half().contiguous() for k, v in trained_part(model).items()}, out / "model.safetensors")
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(out)


if __name__ == "__main__":
    main()
