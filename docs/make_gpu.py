"""docs/gpu.md: which command fits on a card of 8, 12, 16 or 24 GB, from `efface plan`.

    python docs/make_gpu.py --plan       plan every published model again (minutes), into gpu.json
    python docs/make_gpu.py              write the page from gpu.json

A model is planned from its configurations alone (benchmarks/published_models.py); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE, STORED = HERE / "gpu.md", HERE / "gpu.json"
CARDS = (8, 12, 16, 24)
GIB = 2**30
#: Memory of a GPU that its context takes, as in `efface.plan`.
CONTEXT = 0.7
METHODS: dict[str, dict[str, Any]] = {"uce": {}, "lora": {"preset": "esd"}}
#: The side of an image in pixels.
SIZES = {"Stable Diffusion 1.4": 512, "SDXL": 1024, "SD3.5 medium": 1024, "FLUX.1 schnell": 512, "FLUX.1 dev": 512}

INTRODUCTION = """# Which command fits on which card

Peaks of the memory of a GPU, from `efface plan`, which reads a model's configurations and loads no weights. {context}
GiB for the context of the GPU are included. **Every figure on this page is estimated; none was measured on a GPU.** The
estimates of single steps were compared with torch's allocator on the CPU, on tiny models of these classes, and are
within 15% of it (`tests/api/test_plan.py`). `python benchmarks/gpu.py` compares them on a machine with a GPU.

"yes" leaves at least 10% of the card free, "tight" less, and "no" does not fit. For your model, method and settings:

```sh
efface plan path/to/model --method lora --vram 12 -s preset=esd
```

Training is `--method lora -s preset=esd` with one image per step; the text encoders wait on the CPU while the denoiser
is trained. Erasing by a closed form reads the text encoders and the weights that read the text. An offloaded model
needs its whole size in the memory of the CPU. This page is made by `python docs/make_gpu.py`."""


def plans() -> dict[str, Any]:
    """The plans of all models and methods, as JSON; a method that does not support a model has the reason instead."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    import efface

    write_configs: Any = import_module("published_models").write_configs

    content: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    for name, size in SIZES.items():
        for method, options in METHODS.items():
            if method in content.get(name, {}):
                continue
            with tempfile.TemporaryDirectory() as folder:
                configs = write_configs(name, Path(folder) / "model")
                try:
                    work = efface.plan(configs, method, size=size, **options).to_json()["work"]
                    planned: Any = [{key: one[key] for key in one if key != "fits"} for one in work]
                except efface.BadInput as error:
                    planned = str(error).replace(str(configs), name)
            content.setdefault(name, {})[method] = planned
            STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def command(work: dict[str, Any], method: str) -> str:
    """The command of a way to do a piece of work."""
    options = "" if work["dtype"] == "float32" else f" --dtype {work['dtype']}"
    options += "".join(f" --{name} {work[name]}" for name in ("offload", "quantize") if work[name] != "none")
    if work["work"] == "generate":
        return f"efface generate PROMPT{options}"
    settings = "".join(f" -s {name}={value}" for name, value in METHODS[method].items())
    settings += " -s gradient_checkpointing=true" if "checkpointing" in work["work"] else ""
    return f"efface erase CONCEPT --method {method}{settings}{options}"


def rows(plan_of_model: dict[str, Any]) -> Iterator[str]:
    """The rows of a model's table."""
    for method, planned in plan_of_model.items():
        if isinstance(planned, str):
            yield f"| `efface erase CONCEPT --method {method}` | not supported: {planned} |" + " |" * len(CARDS)
            continue
        for work in planned:
            if (work["work"] == "generate") == (method == "uce") or work["work"] == "erase":
                peak = work["bytes"] / GIB + CONTEXT
                fits = ("yes" if peak <= 0.9 * card else "tight" if peak <= card else "no" for card in CARDS)
                yield f"| `{command(work, method)}` | {peak:.1f}, estimated | {' | '.join(fits)} |"


def page() -> str:
    """The page, from the stored plans."""
    content = json.loads(STORED.read_text(encoding="utf-8"))
    head = f"| command | peak in GiB | {' | '.join(f'{card} GB' for card in CARDS)} |"
    line = "|---|---|" + "---|" * len(CARDS)
    sections = [
        f"## {name}, {SIZES[name]} pixels\n\n" + "\n".join([head, line, *rows(content[name])])
        for name in SIZES
        if name in content
    ]
    return "\n\n".join([INTRODUCTION.replace("{context}", str(CONTEXT)), *sections]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="plan the models that gpu.json does not have")
    if parser.parse_args().plan:
        plans()
    PAGE.write_text(page(), encoding="utf-8")
