"""A step of each trained method on a U-Net of Stable Diffusion 1.4's size: does it fit a machine?

    python benchmarks/sd14_step.py            all cases; writes results/sd14_step.md and .json (some minutes a case)
    python benchmarks/sd14_step.py --quick    a small U-Net, in seconds a case; writes nothing

Weights are random: what a step needs does not depend on them. Latents are 64 x 64, text is 77 x 768, all in float32 on
the CPU. Pictures are drawn four at a time, and ESD's trajectories are sampled four at a time, as by default, but with
one or two sampling steps each, which changes seconds and not memory; so ESD takes four steps, the others one.
Each case runs in a process of its own; its peak is that of the whole process, the libraries, the weights and Adam's
state included. The bar is 24 GB. Finished cases are kept under --work, so that an interrupted run goes on.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import efface
from efface.models import Model, open_model
from efface.models.open import EMBEDDED
from memory import megabytes
from sd14 import TEXT, VAE, special_tokens

RESULTS = Path(__file__).parent / "results"
BAR = 24.0
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
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED["emoji"] / "tokenizer", model_max_length=77)
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
    """A step, or ESD's four, in this process."""
    method, names, options = CASES[case]
    model = random_model(*(SMALL if quick else SD14))
    started = time.perf_counter()
    eraser = efface.erase(model, names, method=method, **options)
    given = "down" if method == "sepce" else "up"  # sepce's directions, and which rows of a table are trained
    return {
        "parameters": sum(t.numel() for edit in eraser.edits for name, t in edit.tensors().items() if name != given),
        "seconds": time.perf_counter() - started,
        "gigabytes": megabytes() / 1024,
    }


def measured(case: str, quick: bool, work: Path) -> dict[str, Any]:
    """A case in a process of its own, or what an earlier run found of it."""
    kept = work / f"{case.replace(' ', '-')}.json"
    if kept.exists() and not quick:
        return json.loads(kept.read_text())
    command = [sys.executable, __file__, "--case", case, *(["--quick"] if quick else [])]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    if not quick:
        work.mkdir(parents=True, exist_ok=True)
        kept.write_text(answer)
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
    rows: dict[str, dict[str, Any]] = {}
    lines = ["| case | trained parameters | seconds | peak GB |", "|---|---|---|---|"]
    for case in CASES:
        rows[case] = row = measured(case, arguments.quick, arguments.work)
        lines.append(f"| {case} | {row['parameters']:,} | {row['seconds']:.0f} | {row['gigabytes']:.1f} |")
        print(lines[-1], flush=True)
    if arguments.quick:
        return
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} thread(s) of a busy machine, {platform.machine()}"
    text = f"""# A step on Stable Diffusion 1.4's size

{setting}.
Made by `python benchmarks/sd14_step.py`, whose first lines say what is measured. The bar is {BAR:.0f} GB.

{chr(10).join(lines)}
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sd14_step.md").write_text(text, encoding="utf-8")
    (RESULTS / "sd14_step.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
