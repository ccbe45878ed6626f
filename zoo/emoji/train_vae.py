"""Trains the autoencoder: 64x64 pictures to 16x16 latents of 4 channels, on 32x32 crops.

    python train_vae.py RUN --steps 3000

Loss: mean absolute error of pixels and of their horizontal and vertical differences (edges are what a
drawing is made of), plus a small KL term. Resumes from RUN/vae.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from common import Average, Checkpoint, Log, learning_rate
from muon import Muon

CONFIG: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(16, 48, 96),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=64,
)
CROP, BATCH, MUON_LR, ADAM_LR, KL_WEIGHT = 32, 32, 0.01, 1.5e-3, 2e-6


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(vae: AutoencoderKL, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
    l1 = (y - x).abs().mean()
    contour = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
    return l1 + contour + KL_WEIGHT * posterior.kl().mean(), l1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    pictures = np.load(args.run / "pictures.npy", mmap_mode="r")
    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    # Start with little noise on the latents (standard deviation 0.05, not 1): shapes come ten times sooner.
    torch.nn.init.constant_(vae.quant_conv.bias[CONFIG["latent_channels"] :], -6.0)
    optimiser = Muon(vae, MUON_LR, ADAM_LR)
    average, log = Average(vae, 0.998), Log(args.run / "vae.jsonl")
    for step in Checkpoint(args.run / "vae.pt", vae, optimiser, average).steps(args.steps, every=500):
        rng = np.random.default_rng([1, step])
        which = rng.integers(0, len(pictures), BATCH)
        at = rng.integers(0, 64 - CROP + 1, (BATCH, 2))
        crops = np.stack([pictures[i, y : y + CROP, x : x + CROP] for i, (y, x) in zip(which, at, strict=True)])
        x = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        optimiser.schedule(learning_rate(step + 1, args.steps, 1.0, 100))
        loss, l1 = loss_of(vae, x.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            log(step=step + 1, loss=loss.item(), l1=l1.item())
    average.copy_to(vae)
    vae.save_pretrained(args.run / "vae")


if __name__ == "__main__":
    main()
