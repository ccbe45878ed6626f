"""Memory of one step of each trained method on a U-Net of Stable Diffusion 1.4's size.

    python benchmarks/sd14_step.py            all cases; writes results/sd14_step.md and .json (some minutes per case)
    python benchmarks/sd14_step.py --quick    a small U-Net, seconds per case; writes nothing

The weights are random: the memory of a step does not depend on them. Latents are 64 x 64, text is 77 x 768, all in
float32 on the CPU. Images and ESD's trajectories are sampled four at a time, as by default, but with one or two
sampling steps each, which changes the time and not the memory. ESD therefore takes four steps, the others one.
Each case runs in a separate process; its peak is that of the whole process, including libraries, weights and Adam's
state. The target is 24 GB. The work folder stores finished cases, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import efface
from efface.models import Model, open_model
from efface.models.open import BUILT_IN
from memory import megabytes
from pages import Page, machine, table, write
from sd14 import TEXT, VAE, special_tokens

TARGET = 24.0  # GB
TRAJECTORY = {"iterations": 4, "ddim_steps": 1}
PICTURES = {"iter_break": 1, "images": 4, "sampling_steps": 2}
ANCHORS = {"to": "dog", "train_max_steps": 1, "sampling_steps": 2, "train_size": 4}

#: A method, what it erases, and its settings.
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "esd, cross-attention": ("esd", ["cat"], {"train_method": "esd-x", **TRAJECTORY}),
    "esd, all but cross-attention": ("esd", ["cat"], {"train_method": "esd-u", **TRAJECTORY}),
    "esd, full, latents of the edited model": (
        "esd", ["cat"], {"preset": "2023", "train_method": "full", **TRAJECTORY}
    ),
    "cie": ("cie", ["cat"], PICTURES),
    "sepce": ("sepce", ["cat"], PICTURES),
    "sepce, joint": ("sepce", ["cat", "dog"], {"training": "joint", **PICTURES}),
    "ablate, cross-attention": ("ablate", ["cat"], {"parameter_group": "cross-attn", **ANCHORS}),
    "ablate, all attention": ("ablate", ["cat"], {"parameter_group": "attn", **ANCHORS}),
    "ablate, words' embeddings": ("ablate", ["cat"], {"parameter_group": "embedding", **ANCHORS}),
    "ablate, full, batch 2": ("ablate", ["cat"], {"parameter_group": "full-weight", "batch_size": 2, **ANCHORS}),
}  # fmt: skip
# Latent size and channels.
SD14, SMALL = (64, (320, 640, 1280, 1280)), (16, (32, 32, 64, 64))


def random_model(size: int, channels: tuple[int, ...]) -> Model:
    """Stable Diffusion 1.4 with random weights, and a text encoder of two layers."""
    import diffusers
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    parts: Any = diffusers
    tokenizer = CLIPTokenizer.from_pretrained(BUILT_IN["emoji"].folder / "tokenizer", model_max_length=77)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            **TEXT,
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            **special_tokens(tokenizer),
        )
    )
    unet = parts.UNet2DConditionModel(
        sample_size=size, cross_attention_dim=768, attention_head_dim=8, block_out_channels=channels
    )
    scheduler = parts.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = parts.StableDiffusionPipeline(
        vae=parts.AutoencoderKL(**VAE),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet.to(memory_format=torch.channels_last),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return open_model(pipeline)


def run(case: str, quick: bool) -> dict[str, Any]:
    """One step, or four of ESD, in this process."""
    method, names, options = CASES[case]
    model = random_model(*(SMALL if quick else SD14))
    started = time.perf_counter()
    eraser = efface.erase(model, names, method=method, **options)
    fixed = "down" if method == "sepce" else "up"  # not trained: sepce's directions, and the choice of table rows
    return {
        "parameters": sum(t.numel() for edit in eraser.edits for name, t in edit.tensors().items() if name != fixed),
        "seconds": time.perf_counter() - started,
        "gigabytes": megabytes() / 1024,
    }


def measured(case: str, quick: bool, work: Path) -> dict[str, Any]:
    """A case in a separate process, or its numbers from the work folder."""
    stored = work / f"{case.replace(' ', '-')}.json"
    if stored.exists() and not quick:
        return json.loads(stored.read_text())
    command = [sys.executable, __file__, "--case", case, *(["--quick"] if quick else [])]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    if not quick:
        work.mkdir(parents=True, exist_ok=True)
        stored.write_text(answer)
    return json.loads(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small U-Net; writes nothing")
    parser.add_argument("--work", type=Path, default=Path("sd14_step"), help="finished cases")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run(arguments.case, arguments.quick)))
        return
    content: dict[str, dict[str, Any]] = {}
    for case in CASES:
        content[case] = measured(case, arguments.quick, arguments.work)
        print(f"{case}: {content[case]}", flush=True)
    result = page(content)
    print(f"\n{result.finding}\n{result.body}")
    if not arguments.quick:
        write("sd14_step", content, result, machine(), "a busy machine")


def page(content: Any) -> Page:
    """The result page of the numbers in sd14_step.json."""
    peaks = [row["gigabytes"] for row in content.values()]
    fits = "every trained method fits" if max(peaks) <= TARGET else "not every trained method fits"
    finding = (
        f"On a model of Stable Diffusion 1.4's size, {fits} into {TARGET:.0f} GB of memory without a GPU: the peaks "
        f"are {min(peaks):.1f} to {max(peaks):.1f} GB."
    )
    rows = [
        [case, f"{row['parameters']:,}", f"{row['seconds']:.0f}", f"{row['gigabytes']:.1f}"]
        for case, row in content.items()
    ]
    return Page(
        "Training at Stable Diffusion 1.4's size: memory of a step",
        finding,
        "The weights are random; the memory of a step does not depend on them.\n\n"
        + table(["case", "trained parameters", "seconds", "peak GB"], rows),
    )


if __name__ == "__main__":
    main()
