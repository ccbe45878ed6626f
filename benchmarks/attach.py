"""The time that it takes to attach an eraser to a running pipeline, to change its strength and to detach it.

    python benchmarks/attach.py            all cases; writes results/attach.md and .json (a minute)
    python benchmarks/attach.py --quick    the embedded model alone, few repeats; writes nothing

Two pipelines are measured: the embedded model, and one with SD 1.4's text encoder (CLIP-L) and text width, with random
weights and a small U-Net. The size of the U-Net matters only for reading its signature. Rows:
- `first`: the first attachment of an eraser to a pipeline. The text encoder embeds a few prompts, to check that the
  eraser fits the model. All other rows are measured after that check.
- `attach`, `detach`: one of them. `swap`: detach one eraser and attach another.
- `set strength`: `attachment.set(0.5)`.
- `each`: attach to a batch of 8 prompts with 4 different erasers and 2 prompts without an eraser.
- `edit`, `edit each`: the work of the hook in one denoising step, for a batch of 16 rows (8 images with guidance).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import efface
from efface import Eraser
from pages import Page, machine, table, write
from sd14 import TEXT, special_tokens

TARGET = 1.0  # milliseconds
RANKS = (1, 10, 100)


@dataclass(frozen=True)
class Outcome:
    """Milliseconds: the median and the 99th percentile of the repeats."""

    pipeline: str
    concepts: int
    work: str
    median: float
    slow: float
    repeats: int


def embedded() -> Any:
    return efface.open_model("emoji").pipeline()


def as_sd14() -> Any:
    """The embedded pipeline with a text encoder of SD 1.4's size and a U-Net of its text width."""
    import diffusers
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    parts_of: Any = diffusers
    torch.manual_seed(0)
    pipeline = embedded()
    pipeline.text_encoder = CLIPTextModel(
        CLIPTextConfig(
            **TEXT,
            vocab_size=49408,
            num_hidden_layers=12,
            **special_tokens(pipeline.tokenizer),
        )
    ).eval()
    pipeline.unet = parts_of.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
        norm_num_groups=8,
    ).eval()
    return pipeline


def timed(work: Callable[[], Any], undo: Callable[[Any], None], repeats: int) -> tuple[float, float]:
    """Median and 99th percentile of `work`, in milliseconds; `undo` of its result is not timed."""
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        attachment = work()
        seconds.append(time.perf_counter() - started)
        undo(attachment)
    return 1e3 * statistics.median(seconds), 1e3 * statistics.quantiles(seconds, n=100)[98]


def run(name: str, pipeline: Any, concepts: int, repeats: int) -> list[Outcome]:
    names = [f"thing {concepts} {i}" for i in range(4 * concepts)]
    erasers: list[Eraser] = [
        efface.erase(pipeline, names[i * concepts : (i + 1) * concepts], to="art") for i in range(4)
    ]
    first, other = erasers[:2]
    started = time.perf_counter()
    first.attach(pipeline).detach()
    first_time = 1e3 * (time.perf_counter() - started)
    for eraser in erasers:
        eraser.attach(pipeline).detach()

    def swap() -> Any:
        attachment.detach()
        return other.attach(pipeline)

    each = [erasers[0], None, *erasers[1:], None, erasers[0], erasers[1]]
    attachment = first.attach(pipeline)
    width = pipeline.unet.config.cross_attention_dim
    text, latents = torch.randn(16, 77, width), torch.randn(8, 4, 8, 8).repeat(2, 1, 1, 1)
    outcomes = [Outcome(name, concepts, "first", first_time, first_time, 1)]

    def measure(work: str, do: Callable[[], Any], undo: Callable[[Any], None] = lambda _: None) -> None:
        outcomes.append(Outcome(name, concepts, work, *timed(do, undo, repeats), repeats))

    def reattach(_: Any) -> None:
        nonlocal attachment
        attachment = first.attach(pipeline)

    def run_hook(of: Any) -> None:
        """The work that an attachment adds to a call of the denoiser."""
        of._hook(pipeline.unet, (latents, 1, text), {})

    def restore(of: Any) -> None:
        of.detach()
        reattach(None)

    measure("set strength", lambda: attachment.set(0.5))
    measure("edit", lambda: run_hook(attachment))
    measure("detach", lambda: attachment.detach(), reattach)
    measure("swap", swap, restore)
    attachment.detach()
    measure("attach", lambda: first.attach(pipeline), lambda of: of.detach())
    measure("each", lambda: efface.attach_each(each, pipeline), lambda of: of.detach())
    with efface.attach_each(each, pipeline) as together:
        measure("edit each", lambda: run_hook(together))
    return outcomes


def page(content: Any) -> Page:
    """The result page of the numbers in attach.json."""
    outcomes = [Outcome(**row) for row in content["rows"]]
    times = {(o.pipeline, o.concepts, o.work): o.median for o in outcomes}
    sizes = sorted(o.median for o in outcomes if o.pipeline == "SD 1.4 text" and o.work == "first")
    finding = (
        f"Attaching an eraser takes {times['embedded', 1, 'first']:.0f} ms the first time "
        f"({sizes[0] / 1e3:.1f} to {sizes[-1] / 1e3:.2f} s at Stable Diffusion 1.4's text width), and later "
        f"{times['embedded', 1, 'attach']:.1f} ms for one concept and {times['SD 1.4 text', 100, 'attach']:.1f} ms for "
        f"100 concepts at that width."
    )
    slow = [
        f"{o.pipeline} {o.concepts} {o.work}"
        for o in outcomes
        if o.work in ("attach", "detach", "swap", "each") and o.median > TARGET
    ]
    rows = [[o.pipeline, str(o.concepts), o.work, f"{o.median:.3f}", f"{o.slow:.3f}"] for o in outcomes]
    body = f"""
The target is {TARGET:g} ms after the first time. Slower: {", ".join(slow) or "none"}.

{table(["pipeline", "concepts", "work", "median ms", "99th percentile ms"], rows)}
"""
    return Page("Attaching to a running pipeline", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of attaching erasers to a running pipeline.")
    parser.add_argument("--quick", action="store_true", help="the embedded model, few repeats; writes nothing")
    quick = parser.parse_args().quick
    repeats = 20 if quick else 300
    outcomes: list[Outcome] = []
    pipelines = {"embedded": embedded} if quick else {"embedded": embedded, "SD 1.4 text": as_sd14}
    for name, make in pipelines.items():
        pipeline = make()
        for concepts in RANKS[:1] if quick else RANKS:
            outcomes += run(name, pipeline, concepts, repeats)
    for outcome in outcomes:
        print(outcome)
    if not quick:
        content = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        content |= {"rows": [asdict(outcome) for outcome in outcomes]}
        write("attach", content, page(content), machine())


if __name__ == "__main__":
    main()
