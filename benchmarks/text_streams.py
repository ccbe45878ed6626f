"""Where a concept is in the text that each embedded model reads, by replacing parts of a prompt's embedding.

    python benchmarks/text_streams.py            ten objects, four prompts each, on both models
    python benchmarks/text_streams.py --quick    two objects; writes no result

A prompt that names a concept and the same prompt with its guide are embedded, and some rows of the first embedding are
replaced by those of the second: only the tokens of the name, all tokens of a stream, the pooled vector, or everything.
No weight is changed. An edit of the text can reach at most what the replacement of all that it edits reaches. Only
concepts whose name and guide have equally many tokens are measured. Writes results/text_streams.md and .json.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

import efface
from efface.generation import Job, sample
from efface.generation.jobs import Embedding
from efface.judges import Judge, open_judge
from efface.models import Model
from efface.models.emoji import catalogue
from pages import Page, machine, table, write
from quality import OBJECTS

MODELS = ("emoji", "emoji-flow")
TEMPLATES = ("a {}", "a {} in flat style", "a {} in outlined style", "a {} in 3d style")
SEED = 4000

Rows = list[dict[str, Any]]


def differing(model: Model, concept: str, guide: str) -> list[int] | None:
    """The positions of the name's tokens, the same for all streams that have tokens; None if the lengths differ."""
    ids = [model.tokenizer(text, add_special_tokens=True).input_ids for text in (concept, guide)]
    if len(ids[0]) != len(ids[1]):
        return None
    return [index for index, (one, other) in enumerate(zip(*ids, strict=True)) if one != other]


def replacements(model: Model, own: Tensor, other: Tensor, name: list[int]) -> dict[str, Tensor]:
    """The embedding (R, d) of a prompt with rows of another's, by the words for what is replaced."""
    tokens = len(own) - (model.family == "flux")  # FLUX has the pooled vector in its last row
    rows = torch.arange(len(own))
    chosen = {
        "nothing": rows < 0,
        "tokens of the name": torch.isin(rows, torch.tensor(name)),
        "all tokens": rows < tokens,
    }
    if tokens < len(own):
        chosen |= {"pooled vector": rows >= tokens, "all tokens and the pooled vector": rows >= 0}
    return {words: torch.where(mask[:, None], other, own) for words, mask in chosen.items()}


def measure(model: Model, judge: Judge, objects: tuple[str, ...]) -> Rows:
    """For each object and replacement, the shares of images that show the object and its guide."""
    rows: Rows = []
    for concept in objects:
        guide = catalogue().guide(concept, "object", [concept])
        assert guide is not None
        jobs: dict[str, list[Job]] = {}
        for number, template in enumerate(TEMPLATES):
            prompts = [template.format(name) for name in (concept, guide)]
            name = differing(model, *prompts)
            if name is None:
                break
            own, other = model.denoiser_text(model.embed(prompts))
            for words, text in replacements(model, own, other, name).items():
                job = Job(f"{prompts[0]} ({words})", SEED + number, embedding=Embedding.of(text))
                jobs.setdefault(words, []).append(job)
        for words, some in jobs.items():
            images = [image for _, image in sorted(sample(model, some), key=lambda pair: pair[0]) if image is not None]
            scores = judge.scores(np.stack(images), (concept, guide)) > 0.5
            rows.append(
                {"concept": concept, "guide": guide, "replaced": words, "n": len(images)}
                | {"shows concept": int(scores[:, 0].sum()), "shows guide": int(scores[:, 1].sum())}
            )
        print(concept, "left out" if not jobs else "measured", flush=True)
    return rows


def shares(rows: Rows, words: str) -> tuple[float, float]:
    """The shares of images that show the concept and the guide, over all concepts."""
    some = [row for row in rows if row["replaced"] == words]
    n = sum(row["n"] for row in some)
    return sum(row["shows concept"] for row in some) / n, sum(row["shows guide"] for row in some) / n


def page(content: dict[str, Rows]) -> Page:
    """The result page of the numbers in text_streams.json."""
    lines: list[list[str]] = []
    for model, rows in content.items():
        for words in dict.fromkeys(row["replaced"] for row in rows):
            concept, guide = shares(rows, words)
            n = sum(row["n"] for row in rows if row["replaced"] == words)
            lines.append([model, words, f"{concept:.0%}", f"{guide:.0%}", str(n)])
    flow = content[MODELS[1]]
    finding = (
        f"With the guide's tokens in place of the name's, `{MODELS[1]}` still shows the concept in "
        f"{shares(flow, 'tokens of the name')[0]:.0%} of images (`{MODELS[0]}`: "
        f"{shares(content[MODELS[0]], 'tokens of the name')[0]:.0%}), with all tokens of the guide's prompt in "
        f"{shares(flow, 'all tokens')[0]:.0%}, with only the pooled vector in {shares(flow, 'pooled vector')[0]:.0%}, "
        f"and with both in {shares(flow, 'all tokens and the pooled vector')[0]:.0%}."
    )
    heads = ["model", "replaced by the guide's", "shows the concept", "shows the guide", "n"]
    return Page("Where a concept is in the text", finding, f"\n{table(heads, lines)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two objects; writes no result")
    arguments = parser.parse_args()
    judge = open_judge("emoji")
    objects = OBJECTS[:2] if arguments.quick else OBJECTS
    content = {name: measure(efface.open_model(name), judge, objects) for name in MODELS}
    result = page(content)
    print(f"\n{result.finding}\n{result.body}")
    if not arguments.quick:
        write("text_streams", content, result, machine(), f"judge {judge.name} {judge.version}")


if __name__ == "__main__":
    main()
