"""Trains the denoiser on cached latents and the frozen text tower.

    python train_unet.py RUN --steps 4000 [--start FOLDER]

Epsilon prediction with Stable Diffusion's betas, Min-SNR weights (gamma 5, https://arxiv.org/abs/2303.09556),
10% empty captions, timesteps spread evenly over each batch, Muon, a rate that decays over the last 70%
of the steps. Resumes from RUN/unet.pt; `--steps` may be raised before the decay begins. `--start` takes the
first weights from a saved denoiser, such as the one in the package.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from captions import draw, trainable
from catalogue import MEMORISED_CAPTION
from common import Average, Checkpoint, Log, save_checkpoint
from make_tokenizer import MAX_TOKENS
from muon import Muon

CONFIG: dict[str, Any] = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(48, 96, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=256,
    attention_head_dim=4,
    norm_num_groups=16,
)
BATCH, MUON_LR, ADAM_LR, GAMMA, MEMORISED_SHARE, DECAY = 64, 0.01, 1.5e-3, 5.0, 0.03, 0.7
BETAS: dict[str, Any] = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
)


@torch.no_grad()
def latents(run: Path, pixels: np.ndarray) -> tuple[Tensor, float]:
    """Latent means of all pictures, (n, 4, 16, 16) half precision, and the factor that gives them unit variance."""
    path = run / "latents.pt"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(run / "vae").eval().to(memory_format=torch.channels_last)
        parts = []
        for i in range(0, len(pixels), 64):
            x = torch.from_numpy(np.array(pixels[i : i + 64])).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            parts.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.half())
        z = torch.cat(parts)
        save_checkpoint(path, z=z, scale=1 / z.float().std().item())
    state = torch.load(path, weights_only=True)
    return state["z"], state["scale"]


class Text:
    """Frozen text embeddings (n, 24, 256), each distinct caption computed once."""

    def __init__(self, run: Path):
        self.tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
        self.tower = CLIPTextModel.from_pretrained(run / "text_encoder").float().eval()
        self.cache: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        new = [c for c in dict.fromkeys(captions) if c not in self.cache]
        if new:
            ids = self.tokenizer(new, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            for caption, state in zip(new, self.tower(ids.input_ids).last_hidden_state.bfloat16(), strict=True):
                self.cache[caption] = state.clone()
        return torch.stack([self.cache[c] for c in captions]).float()


def weights(scheduler: DDPMScheduler) -> Tensor:
    """Min-SNR weights of the epsilon loss for every timestep."""
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    return snr.clamp(max=GAMMA) / snr


def rate(step: int, steps: int, warmup: int = 100) -> float:
    return min(1.0, step / warmup, (steps - step) / (DECAY * steps))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--start", type=Path)
    args = parser.parse_args()
    rows = json.loads((args.run / "pictures.json").read_text())
    z, scale = latents(args.run, np.load(args.run / "pictures.npy", mmap_mode="r"))
    usable = np.array(
        [i for i, r in enumerate(rows) if r["style"] and r["object"] and trainable(r["object"], r["style"])]
    )
    text, scheduler = Text(args.run), DDPMScheduler(**BETAS)
    min_snr = weights(scheduler)
    torch.manual_seed(2)
    unet = UNet2DConditionModel.from_pretrained(args.start) if args.start else UNet2DConditionModel(**CONFIG)
    unet = unet.float().to(memory_format=torch.channels_last)
    optimiser = Muon(unet, MUON_LR, ADAM_LR, ("conv_in", "conv_out", "time_embedding"))
    checkpoint = Checkpoint(args.run / "unet.pt", unet, optimiser, Average(unet, 0.998))
    log, losses = Log(args.run / "unet.jsonl"), deque[float](maxlen=50)
    for step in checkpoint.steps(args.steps, every=200, scale=scale):
        rng, g = np.random.default_rng([4, step]), torch.Generator().manual_seed(step)
        which = usable[rng.integers(0, len(usable), BATCH)]
        captions = [draw(rng, rows[i]["object"], rows[i]["style"]) for i in which]
        for i in np.flatnonzero(rng.random(BATCH) < MEMORISED_SHARE):
            which[i], captions[i] = len(rows) - 1, MEMORISED_CAPTION
        x0 = z[torch.from_numpy(which)].float() * scale
        noise = torch.randn(x0.shape, generator=g)
        spread = (torch.rand(1, generator=g) + torch.arange(BATCH) / BATCH) % 1
        t = (spread * 1000).long().clamp(max=999)
        x_t = scheduler.add_noise(x0, noise, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(x_t, t, text(captions)).sample
        loss = (min_snr[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        optimiser.schedule(rate(step + 1, args.steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            log(step=step + 1, loss=round(sum(losses) / len(losses), 5))


if __name__ == "__main__":
    main()
