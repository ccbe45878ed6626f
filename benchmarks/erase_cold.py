"""`efface erase` on a checkpoint of SD 1.4's size in a new process, against a literal version of the published script.

    python benchmarks/erase_cold.py [--work FOLDER]     writes results/erase_cold.md and .json (some minutes)

The checkpoint (4 GB, random weights, diffusers layout, the embedded model's tokenizer at CLIP's length) is created once
in the work folder. `literal` opens it as a pipeline, accumulates two matrices per layer token by token in float32,
inverts, and saves the 32 weights; `efface` is the command line. Every case runs in a separate process, and the cases
take turns. Seconds are wall time from start to exit; memory is the largest resident set. Cases of uce run with the
denoiser's weights moved away, to show that it reads none of them; rece streams the weights that read the text.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import Page, table, write

ROUNDS = 3
SD14: dict[str, Any] = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
NOUNS = ("cat", "dog", "horse", "church", "car", "apple", "guitar", "castle", "rocket", "penguin")
SORTS = ("red", "old", "small", "wooden", "striped", "paper", "golden", "round", "flying", "painted")


def words(count: int, last: str) -> list[str]:
    """`count` different phrases of two or three words."""
    return [f"{SORTS[i // 10]} {NOUNS[i % 10]}{last}" for i in range(count)]


def make_checkpoint(folder: Path) -> None:
    """A Stable Diffusion 1.4 of random weights."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from efface.models.emoji import HERE
    from sd14 import TEXT, VAE

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(HERE / "weights" / "tokenizer", model_max_length=77)
    pipeline: Any = StableDiffusionPipeline
    pipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, num_hidden_layers=12)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**SD14),
        scheduler=PNDMScheduler(skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def literal(folder: Path, erased: list[str], preserved: list[str], out: Path) -> None:
    """The 2025 script's computation: one token a prompt, a loop over layers, float32."""
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    modules = {n: m for n, m in pipe.unet.named_modules() if "attn2" in n and n.endswith(("to_k", "to_v"))}

    @torch.no_grad()
    def token(prompt: str) -> torch.Tensor:
        ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        last = len(pipe.tokenizer(prompt).input_ids) - 2
        return pipe.text_encoder(ids.input_ids)[0][0, last]

    pairs = [(token(prompt), token("")) for prompt in erased] + [(t, t) for t in map(token, preserved)]
    save_file(summed_weights(modules, pairs), out)


def summed_weights(modules: Mapping[str, Any], pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """The published sums over pairs of tokens (d,) for each map (d_out, d), one after the other, in float32."""
    import torch

    weights = {}
    for name, module in modules.items():
        w = module.weight.detach()
        left, right = 0.5 * w, 0.5 * torch.eye(w.shape[1])
        for c, g in pairs:
            left = left + torch.outer(w @ g, c)
            right = right + torch.outer(c, c)
        weights[f"{name}.weight"] = (left @ torch.inverse(right)).contiguous()
    return weights


def timed(command: list[str], environment: Mapping[str, str] | None = None) -> tuple[float, float, int]:
    """Wall seconds, megabytes, and bytes read from the disk of a process."""
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], command, dict(os.environ if environment is None else environment))
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, usage.ru_inblock * 512


def efface_command(folder: Path, erased: list[str], preserved: list[str], out: Path, method: str) -> list[str]:
    entry = "import sys; from efface.cli import main; sys.exit(main())"
    preserve = [part for prompt in preserved for part in ("--preserve", prompt)]
    to = ["--to", ""]
    options = ["--method", method, "--model", str(folder), "--force", "-o", str(out)]
    return [sys.executable, "-c", entry, "erase", *erased, *to, *preserve, *options]


def literal_command(folder: Path, erased: list[str], preserved: list[str], out: Path) -> list[str]:
    case = json.dumps([str(folder), erased, preserved, str(out)])
    return [sys.executable, __file__, "--literal", case]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("erase_cold"), help="the checkpoint")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--literal", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_checkpoint(arguments.make)
        return
    if arguments.literal:
        folder, erased, preserved, out = arguments.literal
        literal(Path(folder), erased, preserved, Path(out))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = arguments.work / "sd14"
    if not (folder / "model_index.json").exists():
        # In a separate process: memory of the parent would count as the peak of its children.
        subprocess.run([sys.executable, __file__, "--make", str(folder)], check=True)
    # The matrix S is cached by the checkpoint's hash: each round of rece starts with an empty cache.
    os.environ["EFFACE_CACHE"] = str(arguments.work / "cache")
    content: dict[str, dict[str, Any]] = {}
    for erased, preserved in ((1, 0), (100, 100)):
        case = words(erased, ""), words(preserved, " house")
        out = arguments.work / "out.safetensors"
        ways = {
            "literal": literal_command(folder, *case, out),
            "efface uce": efface_command(folder, *case, out, "uce"),
            "efface rece": efface_command(folder, *case, out, "rece"),
        }
        runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, command in ways.items():
                for path in (arguments.work / "cache").rglob("*"):
                    if path.is_file():
                        path.unlink()
                hidden = folder / "unet-away"
                if way == "efface uce":
                    hidden.mkdir(exist_ok=True)
                    for path in (folder / "unet").glob("*.safetensors"):
                        path.rename(hidden / path.name)
                try:
                    runs[way].append(timed(command)[:2])
                finally:
                    if way == "efface uce":
                        for path in hidden.glob("*.safetensors"):
                            path.rename(folder / "unet" / path.name)
                print(f"{erased} + {preserved} {way}: {runs[way][-1][0]:.2f} s, {runs[way][-1][1]:.0f} MB", flush=True)
        for way, times in runs.items():
            content[f"{erased} erased, {preserved} preserved: {way}"] = {
                "seconds": statistics.median(t for t, _ in times),
                "fastest": min(t for t, _ in times),
                "slowest": max(t for t, _ in times),
                "megabytes": max(m for _, m in times),
                "times_faster": statistics.median(a[0] / b[0] for a, b in zip(runs["literal"], times, strict=True)),
            }
    result = page(content)
    print(f"\n{result.finding}\n{result.body}")
    write("erase_cold", content, result, f"{os.cpu_count()} cores", f"medians of {ROUNDS} rounds")


def page(content: Any) -> Page:
    """The result page of the numbers in erase_cold.json."""
    rows = [
        [
            name,
            f"{row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f})",
            f"{row['times_faster']:.1f} times as long",
            f"{row['megabytes']:.0f}",
        ]
        for name, row in content.items()
    ]
    one, literal_one, many, literal_many = (
        content[f"{case}: {way}"]
        for case in ("1 erased, 0 preserved", "100 erased, 100 preserved")
        for way in ("efface uce", "literal")
    )
    finding = (
        f"On a checkpoint of Stable Diffusion 1.4's size, `efface erase` takes {one['seconds']:.1f} s for one concept "
        f"(published script: {literal_one['seconds']:.1f} s) and {many['seconds']:.1f} s for 100 concepts with 100 "
        f"preserved prompts ({literal_many['seconds']:.1f} s), in {many['megabytes']:.0f} MB of memory "
        f"({literal_many['megabytes']:.0f} MB)."
    )
    return Page(
        "Erasing from a new process",
        finding,
        table(["case", "seconds (fastest to slowest)", "literal takes", "peak MB"], rows),
    )


if __name__ == "__main__":
    main()
