"""`efface erase` in a new process on checkpoints of the sizes of SDXL and FLUX.1, in bf16.

    python benchmarks/real_size.py [--work FOLDER] [--t5-layers N]    writes results/real_size.md and .json
    python benchmarks/real_size.py --tiny                             tiny models, one round; writes nothing

The checkpoints are diffusers folders with the published configurations, the vocabularies of the embedded models, and
files of the published sizes. The text encoders and all maps of the denoiser that read the text have random weights. The
other tensors are zeros in sparse files, which take no space on the disk; a closed form does not read them. FLUX.1's T5
has `--t5-layers` of its 24 layers.

Each case is the command line, in a separate process, with an empty cache of efface and without the folder's files in
the memory of the system. Seconds are wall time from start to exit, memory is the largest resident set, and bytes read
are those that the disk delivered to the process. `floor` is these bytes divided by the bandwidth of reading one file of
the folder from beginning to end. `literal` is the computation of UCE's published SDXL script: it opens the pipeline,
encodes one prompt at a time, and sums two matrices for each map in float32. It does not run on FLUX.1's size in the
memory of this machine. An interrupted run resumes with the next case; to measure again after a change of the code,
remove the .json files beside the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erase_cold import summed_weights, timed, words
from pages import Page, machine, table, write
from published_models import MODELS, write_configs

ROUNDS = 3
METHODS = ("uce", "rece", "speed", "certified")
SIZES = {"SDXL": (1, 100), "FLUX.1 schnell": (1,)}
CHUNK = 1 << 24


def make_checkpoint(name: str, folder: Path, tiny: bool, t5_layers: int) -> None:
    """A diffusers folder of a model's size in bf16."""
    from gpu import shrunk, tokenizer_for

    write_configs(name, folder)
    for part, (class_name, published) in MODELS[name][1].items():
        if part == "scheduler":
            continue
        path = folder / part / "config.json"
        config = json.loads(path.read_text())
        if class_name.startswith("T5"):
            config["num_layers"] = published["num_layers"] = t5_layers
        if tiny:
            config |= (small := shrunk(published))
            published |= small
        if part.startswith("text_encoder"):
            tokenizer = tokenizer_for(class_name)
            tokenizer.save_pretrained(folder / part.replace("text_encoder", "tokenizer"))
            published |= {"vocab_size": len(tokenizer)}
            published |= {f"{word}_token_id": getattr(tokenizer, f"{word}_token_id") for word in ("bos", "eos", "pad")}
            config |= published
        path.write_text(json.dumps(config))
        library = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        write_weights(class_name, published, folder / part / f"{library}.safetensors")


def write_weights(class_name: str, config: dict[str, Any], path: Path) -> None:
    """The weights of a part, one after the other: random where a closed form reads them, else a hole in the file."""
    import diffusers
    import torch
    import transformers

    with torch.device("meta"):
        if is_encoder := not hasattr(diffusers, class_name):
            kind: Any = getattr(transformers, class_name)
            network = kind(kind.config_class(**config))
        else:
            network = getattr(diffusers, class_name)(**config)
    widths = {config.get(f"{text}_dim") for text in ("cross_attention", "joint_attention", "pooled_projection")}
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    sizes = {key: 2 * math.prod(shape) for key, shape in shapes.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key, shape in shapes.items():
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, start + sizes[key]]}
        start += sizes[key]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        for key, shape in shapes.items():
            if is_encoder or (len(shape) == 2 and shape[1] in widths):
                values = torch.randn(shape, generator=generator) * 0.02
                if len(shape) == 1 and key.endswith("weight"):
                    values = values + 1  # the scale of a norm
                file.seek(first + header[key]["data_offsets"][0])
                file.write(values.bfloat16().view(torch.int16).numpy().tobytes())
        file.truncate(first + start)


def literal(folder: Path, erased: list[str], out: Path) -> None:
    """UCE on SDXL as published: one token of each prompt from both encoders, a loop over 140 maps in float32."""
    import torch
    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import save_file

    pipe: Any = StableDiffusionXLPipeline
    pipe = pipe.from_pretrained(folder, torch_dtype=torch.float32)
    maps = {n: m for n, m in pipe.unet.named_modules() if "attn2" in n and n.endswith(("to_k", "to_v"))}

    @torch.no_grad()
    def token(prompt: str) -> torch.Tensor:
        embeddings = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)[0]
        return embeddings[0, len(pipe.tokenizer(prompt).input_ids) - 2]

    pairs = [(token(prompt), token("")) for prompt in erased]
    save_file(summed_weights(maps, pairs), out)


def forget_files(folder: Path) -> None:
    """Remove a folder's files from the memory of the system."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bandwidth(folder: Path) -> float:
    """Bytes per second of reading the file of a text encoder, which has no holes."""
    path = max(folder.glob("text_encoder*/*.safetensors"), key=lambda file: file.stat().st_size)
    forget_files(folder)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass
    return path.stat().st_size / (time.perf_counter() - started)


def commands(name: str, folder: Path, out: Path, tiny: bool) -> Iterator[tuple[int, str, list[str]]]:
    """The number of concepts, the label and the command line of each case."""
    for count in (1,) if tiny else SIZES[name]:  # 32 dimensions have room for no more
        erased = words(count, "")
        if name == "SDXL":
            case = json.dumps([str(folder), erased, str(out)])
            yield count, "literal", [sys.executable, __file__, "--literal", case]
        for method in METHODS[:3] if tiny else METHODS:
            options = ["--method", method, "--model", str(folder), "--dtype", "bf16", "--to", "", "--force"]
            yield count, method, [sys.executable, "-m", "efface", "erase", *erased, *options, "-o", str(out)]


def measure(name: str, folder: Path, rounds: int, tiny: bool) -> dict[str, Any]:
    """All cases of one model, in turns. Finished runs are stored beside the checkpoint and are not repeated."""
    content: dict[str, Any] = {"bandwidth": bandwidth(folder)}
    encoders = list(folder.glob("text_encoder*/*.safetensors"))
    content["text_encoder_bytes"] = sum(path.stat().st_size for path in encoders)
    content["bytes"] = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    stored = folder.with_name(f"{folder.name}.json")
    runs: dict[str, list[dict[str, float]]] = json.loads(stored.read_text()) if stored.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        out, cache = Path(scratch) / "out.safetensors", Path(scratch) / "cache"
        environment = {**os.environ, "EFFACE_CACHE": str(cache)}
        for finished in range(rounds):
            for count, label, command in commands(name, folder, out, tiny):
                of_case = runs.setdefault(f"{count} {label}", [])
                if len(of_case) > finished:
                    continue
                shutil.rmtree(cache, ignore_errors=True)
                forget_files(folder)
                seconds, peak, read = timed(command, environment)
                of_case.append({"seconds": seconds, "megabytes": peak, "read": read})
                stored.write_text(json.dumps(runs, indent=1))
                print(f"{name}, {count} {label}: {seconds:.1f} s, {peak:.0f} MB", flush=True)
    content["cases"] = {
        case: {
            "seconds": statistics.median(run["seconds"] for run in of_case),
            "fastest": min(run["seconds"] for run in of_case),
            "slowest": max(run["seconds"] for run in of_case),
            "megabytes": max(run["megabytes"] for run in of_case),
            "read": max(run["read"] for run in of_case),
        }
        for case, of_case in runs.items()
    }
    return content


def page(content: Any) -> Page:
    """The result page of the numbers in real_size.json."""
    rows: list[list[str]] = []
    for name, model in content["models"].items():
        for case, row in model["cases"].items():
            count, label = case.split(" ", 1)
            published = model["cases"].get(f"{count} literal")
            ratio = f"{published['seconds'] / row['seconds']:.1f} times as long" if published else "–"
            spread = f"{row['seconds']:.1f} ({row['fastest']:.1f} to {row['slowest']:.1f})"
            floor = row["read"] / model["bandwidth"]
            rows.append(
                [name, count, label, spread, ratio, f"{row['megabytes']:,.0f}", _mb(row["read"]), f"{floor:.1f}"]
            )
    sdxl, flux = (content["models"][name]["cases"] for name in SIZES)
    beside = flux["1 uce"]["megabytes"] - content["models"]["FLUX.1 schnell"]["text_encoder_bytes"] / 2**20
    of_sdxl = "; ".join(
        f"{sdxl[f'{count} uce']['seconds']:.1f} s for {count} (the published computation: "
        f"{sdxl[f'{count} literal']['seconds']:.1f} s)"
        for count in SIZES["SDXL"]
        if f"{count} uce" in sdxl
    )
    finding = (
        f"On a checkpoint of SDXL's size, `efface erase` by uce takes, by the number of concepts, {of_sdxl}. On "
        f"FLUX.1's size it takes {flux['1 uce']['seconds']:.1f} s, and {beside:,.0f} MB of memory beside the text "
        "encoders."
    )
    header = ["model", "concepts", "case", "seconds (range)", "literal takes", "peak MB", "MB read", "floor, s"]
    sizes = "; ".join(
        f"{name}: {_mb(model['bytes'])} MB of weights, {_mb(model['text_encoder_bytes'])} MB of them text encoders, "
        f"disk {_mb(model['bandwidth'])} MB/s"
        for name, model in content["models"].items()
    )
    body = f"{sizes}. FLUX.1's T5 has {content['t5_layers']} of 24 layers.\n\n{table(header, rows)}"
    return Page("Erasing on the sizes of SDXL and FLUX.1", finding, body)


def _mb(count: float) -> str:
    return f"{count / 2**20:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("real_size"), help="the checkpoints")
    parser.add_argument("--t5-layers", type=int, default=24, help="layers of FLUX.1's T5")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiny", action="store_true", help="tiny models and one round; writes nothing")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--literal", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_checkpoint(arguments.make, arguments.work, arguments.tiny, arguments.t5_layers)
        return
    if arguments.literal:
        folder, erased, out = arguments.literal
        literal(Path(folder), erased, Path(out))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments.tiny:
        arguments.work, arguments.rounds, arguments.t5_layers = Path(tempfile.mkdtemp()), 1, 1
    models: dict[str, Any] = {}
    for name in SIZES:
        folder = arguments.work / name.replace(" ", "-")
        if not (folder / "model_index.json").exists():
            options = ["--make", name, "--work", str(folder), "--t5-layers", str(arguments.t5_layers)]
            subprocess.run([sys.executable, __file__, *options, *(["--tiny"] if arguments.tiny else [])], check=True)
        models[name] = measure(name, folder, arguments.rounds, arguments.tiny)
    content = {"models": models, "t5_layers": arguments.t5_layers}
    result = page(content)
    print(f"\n{result.finding}\n{result.body}")
    if not arguments.tiny:
        write("real_size", content, result, machine(), f"rounds: {arguments.rounds}, of which the medians")


if __name__ == "__main__":
    main()
