"""Trains the flow transformer on cached latents and the frozen text encoders.

    python train_transformer.py RUN --steps 6000 [--threads 2] [--batch 64]

Rectified flow (https://arxiv.org/abs/2209.03003), in the convention of FLUX: x_s = (1 - s) x0 + s noise, and the
transformer predicts the velocity noise - x0 from x_s and s. s is the sigmoid of a normal variable
(https://arxiv.org/abs/2403.03206), spread evenly over each batch. 10% of the captions are empty, for classifier-free
guidance. Muon for matrices; the learning rate decays over the last DECAY of the steps; weights are averaged. Resumes
from RUN/transformer.pt; `--steps` may be raised before the decay begins. On CUDA the batch may be larger; the learning
rates are those of a batch of 64.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from captions import draw, trainable
from catalogue import MEMORISED_CAPTION
from common import Average, Checkpoint, Log, save_checkpoint
from efface.models.emoji import HERE
from make_tokenizer import MAX_TOKENS
from muon import Muon

CONFIG: dict[str, Any] = dict(
    patch_size=1,
    in_channels=16,
    num_layers=3,
    num_single_layers=5,
    attention_head_dim=64,
    num_attention_heads=3,
    joint_attention_dim=256,
    pooled_projection_dim=256,
    guidance_embeds=False,
    axes_dims_rope=(16, 24, 24),
)
MUON_LR, ADAM_LR, MEMORISED_SHARE, DECAY = 0.015, 1.5e-3, 0.03, 0.6
SIDE = 8  # patches along a side of the latents


def pack(x: Tensor) -> Tensor:
    """Latents (b, C, h, w) as tokens of patches of 2x2, (b, h w / 4, 4 C), in FLUX's order."""
    b, channels, h, w = x.shape
    return x.reshape(b, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * channels)


def position_ids(device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the image tokens (64, 3) and of the text tokens (24, 3), as FLUX numbers them."""
    image = torch.zeros(SIDE, SIDE, 3)
    image[..., 1] += torch.arange(SIDE)[:, None]
    image[..., 2] += torch.arange(SIDE)[None, :]
    return image.reshape(-1, 3).to(device), torch.zeros(MAX_TOKENS, 3, device=device)


@torch.no_grad()
def latents(run: Path) -> tuple[Tensor, float]:
    """Latent means of all pictures in the autoencoder of `emoji`, (n, 4, 16, 16) half precision, and its scale."""
    vae = AutoencoderKL.from_pretrained(HERE / "weights" / "vae").float().eval().to(memory_format=torch.channels_last)
    path = run / "latents.pt"
    if not path.exists():
        pixels = np.load(run / "pictures.npy", mmap_mode="r")
        parts = []
        for i in range(0, len(pixels), 64):
            x = torch.from_numpy(np.array(pixels[i : i + 64])).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            parts.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.half())
        save_checkpoint(path, z=torch.cat(parts))
    return torch.load(path, weights_only=True)["z"], float(vae.config["scaling_factor"])


class Text:
    """Frozen text embeddings: T5's tokens (n, 24, 256) and CLIP's pooled vector (n, 256), each caption once."""

    def __init__(self, run: Path, device: torch.device):
        clip = HERE / "weights"
        self.device = device
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer")
        self.clip = CLIPTextModel.from_pretrained(clip / "text_encoder").float().eval().to(device)
        self.t5_tokenizer = T5Tokenizer.from_pretrained(run / "tokenizer_2")
        self.t5 = T5EncoderModel.from_pretrained(run / "text_encoder_2").float().eval().to(device)
        self.cache: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        new = [c for c in dict.fromkeys(captions) if c not in self.cache]
        if new:
            padded: dict[str, Any] = dict(padding="max_length", truncation=True, return_tensors="pt")
            pooled = self.clip(self.clip_tokenizer(new, max_length=MAX_TOKENS, **padded).input_ids.to(self.device))
            tokens = self.t5(self.t5_tokenizer(new, max_length=MAX_TOKENS, **padded).input_ids.to(self.device))
            both = zip(tokens.last_hidden_state.bfloat16().cpu(), pooled.pooler_output.bfloat16().cpu(), strict=True)
            self.cache |= {c: (t.clone(), p.clone()) for c, (t, p) in zip(new, both, strict=True)}
        rows = [self.cache[c] for c in captions]
        return torch.stack([t for t, _ in rows]).float(), torch.stack([p for _, p in rows]).float()


def new_transformer() -> FluxTransformer2DModel:
    """The transformer with modulations and output at zero, so that every block begins as the identity."""
    torch.manual_seed(2)
    model = FluxTransformer2DModel(**CONFIG)
    zero = [m for name, m in model.named_modules() if name.endswith(("norm.linear", "norm1.linear", "context.linear"))]
    for module in (*zero, model.norm_out.linear, model.proj_out):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    return model


def noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """s in (0, 1), (n,): sigmoid of a normal variable whose quantiles are spread evenly."""
    spread = (torch.rand(1, generator=generator) + torch.arange(n) / n) % 1
    return torch.special.ndtri(spread.double().clamp(1e-4, 1 - 1e-4)).sigmoid().float()


def rate(step: int, steps: int, warmup: int = 100) -> float:
    return min(1.0, step / warmup, (steps - step) / (DECAY * steps))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = json.loads((args.run / "pictures.json").read_text())
    z, scale = latents(args.run)
    usable = np.array(
        [i for i, r in enumerate(rows) if r["style"] and r["object"] and trainable(r["object"], r["style"])]
    )
    text, model = Text(args.run, device), new_transformer().to(device)
    optimiser = Muon(model, MUON_LR, ADAM_LR, ("embedder", "time_text_embed", "proj_out", "norm_out"))
    checkpoint = Checkpoint(args.run / "transformer.pt", model, optimiser, Average(model, 0.998))
    image_ids, text_ids = position_ids(device)
    log, recent = Log(args.run / "transformer.jsonl"), deque[float](maxlen=50)
    for step in checkpoint.steps(args.steps, every=100):
        rng, g = np.random.default_rng([5, step]), torch.Generator().manual_seed(step)
        which = usable[rng.integers(0, len(usable), args.batch)]
        captions = [draw(rng, rows[i]["object"], rows[i]["style"]) for i in which]
        for i in np.flatnonzero(rng.random(args.batch) < MEMORISED_SHARE):
            which[i], captions[i] = len(rows) - 1, MEMORISED_CAPTION
        x0 = pack(z[torch.from_numpy(which)].float() * scale)
        noise, s = torch.randn(x0.shape, generator=g), noise_levels(args.batch, g)
        x = torch.lerp(x0, noise, s[:, None, None])
        tokens, pooled = text(captions)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model(
                hidden_states=x.to(device),
                encoder_hidden_states=tokens.to(device),
                pooled_projections=pooled.to(device),
                timestep=s.to(device),
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        loss = (velocity.float() - (noise - x0).to(device)).square().mean()
        optimiser.schedule(rate(step + 1, args.steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        recent.append(loss.item())
        if (step + 1) % 25 == 0:
            log(step=step + 1, loss=round(float(np.mean(recent)), 4))


if __name__ == "__main__":
    main()
