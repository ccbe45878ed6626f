"""Trains only the decoder of the autoencoder, from cached latents with noise to whole images.

    python train_decoder.py RUN --steps 900

What a denoiser draws is a latent with small errors. A decoder that learned from such latents puts them right: lines
stay thin and pixels square. So every latent gets white noise of a deviation between 0 and NOISE of the latents' own.
Loss as in `train_vae.py`, without the KL term. Resumes from RUN/decoder.pt; writes RUN/vae.
"""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from common import Average, Checkpoint, Log, learning_rate
from muon import Muon
from train_unet import latents
from train_vae import edges

BATCH, MUON_LR, ADAM_LR, NOISE = 16, 0.004, 6e-4, 0.15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=900)
    args = parser.parse_args()
    pictures = np.load(args.run / "pictures.npy", mmap_mode="r")
    z, scale = latents(args.run, pictures)
    vae = AutoencoderKL.from_pretrained(args.run / "vae").float().to(memory_format=torch.channels_last)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    optimiser, average = Muon(decoder, MUON_LR, ADAM_LR), Average(decoder, 0.995)
    checkpoint = Checkpoint(args.run / "decoder.pt", decoder, optimiser, average)
    log, errors = Log(args.run / "decoder.jsonl"), deque[float](maxlen=50)
    for step in checkpoint.steps(args.steps, every=200):
        rng, g = np.random.default_rng([6, step]), torch.Generator().manual_seed(step)
        which = np.sort(rng.integers(0, len(pictures), BATCH))
        x = torch.from_numpy(pictures[which]).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        clean = z[torch.from_numpy(which)].float()
        noise = NOISE / scale * torch.rand(BATCH, 1, 1, 1, generator=g) * torch.randn(clean.shape, generator=g)
        optimiser.schedule(learning_rate(step + 1, args.steps, 1.0, 50))
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode((clean + noise).contiguous(memory_format=torch.channels_last)).sample.float()
        l1 = (y - x).abs().mean()
        loss = l1 + sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        errors.append(l1.item())
        if (step + 1) % 50 == 0:
            log(step=step + 1, l1=round(sum(errors) / len(errors), 5))
    average.copy_to(decoder)
    vae.save_pretrained(args.run / "vae")


if __name__ == "__main__":
    main()
