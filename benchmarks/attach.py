"""Attaching in a running pipeline: how long an eraser takes to come, to change, and to go.

    python benchmarks/attach.py            all cases; writes results/attach.md and .json (a minute)
    python benchmarks/attach.py --quick    the embedded model alone, few repeats; writes nothing

Two pipelines: the embedded model, and one with SD 1.4's text encoder (CLIP-L) and text width, with random weights and a
small U-Net, since nothing here depends on the U-Net's size but the reading of its signature. `first` is the first time
that a pipeline meets an eraser, when its text encoder embeds a few prompts to see that it is the right one; all other
rows are of a pipeline that has met it. `each` attaches to a batch of 8 prompts with 4 different erasers and 2 prompts
left alone. `edit` is the hook's own work in a step, for a batch of 16 rows (8 images, guided).
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import efface
from efface import Eraser
from sd14 import TEXT, special_tokens

RESULTS = Path(__file__).parent / "results"
BAR = 1.0  # milliseconds
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
    """Median and 99th percentile of `work`, in milliseconds; what it gives is undone outside of the clock."""
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - started)
        undo(made)
    return 1e3 * statistics.median(seconds), 1e3 * statistics.quantiles(seconds, n=100)[98]


def run(name: str, pipeline: Any, concepts: int, repeats: int) -> list[Outcome]:
    names = [f"thing {concepts} {i}" for i in range(4 * concepts)]
    erasers: list[Eraser] = [
        efface.erase(pipeline, names[i * concepts : (i + 1) * concepts], to="art") for i in range(4)
    ]
    first, other = erasers[:2]
    started = time.perf_counter()
    first.attach(pipeline).detach()
    meeting = 1e3 * (time.perf_counter() - started)
    for eraser in erasers:
        eraser.attach(pipeline).detach()

    def swap() -> Any:
        attachment.detach()
        return other.attach(pipeline)

    each = [erasers[0], None, *erasers[1:], None, erasers[0], erasers[1]]
    attachment = first.attach(pipeline)
    width = pipeline.unet.config.cross_attention_dim
    text, latents = torch.randn(16, 77, width), torch.randn(8, 4, 8, 8).repeat(2, 1, 1, 1)
    outcomes = [Outcome(name, concepts, "first", meeting, meeting, 1)]

    def measure(work: str, do: Callable[[], Any], undo: Callable[[Any], None] = lambda _: None) -> None:
        outcomes.append(Outcome(name, concepts, work, *timed(do, undo, repeats), repeats))

    def reattach(_: Any) -> None:
        nonlocal attachment
        attachment = first.attach(pipeline)

    def through(made: Any) -> None:
        """What a call of the denoiser costs in addition."""
        made._hook(pipeline.unet, (latents, 1, text), {})

    def restore(made: Any) -> None:
        made.detach()
        reattach(None)

    measure("set strength", lambda: attachment.set(0.5))
    measure("edit", lambda: through(attachment))
    measure("detach", lambda: attachment.detach(), reattach)
    measure("swap", swap, restore)
    attachment.detach()
    measure("attach", lambda: first.attach(pipeline), lambda made: made.detach())
    measure("each", lambda: efface.attach_each(each, pipeline), lambda made: made.detach())
    with efface.attach_each(each, pipeline) as together:
        measure("edit each", lambda: through(together))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    lines = ["| pipeline | concepts | work | median ms | 99th percentile ms |", "|---|---|---|---|---|"]
    lines += [f"| {o.pipeline} | {o.concepts} | {o.work} | {o.median:.3f} | {o.slow:.3f} |" for o in outcomes]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Attaching erasers in a running pipeline.")
    parser.add_argument("--quick", action="store_true", help="the embedded model, few repeats; writes nothing")
    quick = parser.parse_args().quick
    repeats = 20 if quick else 300
    outcomes: list[Outcome] = []
    pipelines = {"embedded": embedded} if quick else {"embedded": embedded, "SD 1.4 text": as_sd14}
    for name, make in pipelines.items():
        pipeline = make()
        for concepts in RANKS[:1] if quick else RANKS:
            outcomes += run(name, pipeline, concepts, repeats)
    print(table(outcomes))
    late = [o for o in outcomes if o.work in ("attach", "detach", "swap", "each") and o.median > BAR]
    verdict = (
        f"Above the bar of {BAR:g} ms: {', '.join(f'{o.pipeline} {o.concepts} {o.work}' for o in late) or 'none'}."
    )
    print("\n" + verdict)
    if quick:
        return
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    text = f"""# Attaching in a running pipeline

{setting}. Made by `python benchmarks/attach.py`, whose first lines say what is measured. {verdict}

{table(outcomes)}
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "attach.md").write_text(text, encoding="utf-8")
    content = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": [asdict(o) for o in outcomes]}
    (RESULTS / "attach.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
