"""Seconds and peak memory on a GPU, beside the estimates of `efface plan`: a script of at most ten minutes.

    python benchmarks/gpu.py             on a machine with CUDA; writes results/gpu.txt
    python benchmarks/gpu.py --tiny      the same work with tiny models on the CPU, without peaks; writes nothing

Models of the sizes of SD 1.4, SDXL and FLUX.1 schnell have random weights in bf16, and the vocabulary of the embedded
models. Each is erased once by `uce`, trained for three steps by `lora` (the settings of ESD) with and without gradient
checkpointing, and generates an image: as it is, with the denoiser in NF4 (bitsandbytes, if it is installed) or in fp8,
and with its parts offloaded. A peak is that of torch's allocator while the work runs, with the model on the device: in
a training also the text encoders, which the estimate has on the CPU. Work that fails is a line with its reason.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers as _diffusers
import torch
import transformers as _transformers
from torch import nn

import efface
from efface import RunContext
from efface.eraser.recommended import PUBLISHED
from efface.models.open import BUILT_IN
from published_models import MODELS, write_configs

RESULT = Path(__file__).parent / "results" / "gpu.txt"
NAMES = {"Stable Diffusion 1.4": 512, "SDXL": 1024, "FLUX.1 schnell": 512}
GIB = 2**30
#: Settings of a training of three steps, each with a point of one short trajectory.
STEPS: dict[str, Any] = {"preset": "esd", "iterations": 3, "max_denoising_steps": 4, "reuse": 4}
#: Small values of the sizes in a configuration, by its key.
TINY: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 16,
    "d_model": 32, "d_ff": 32, "d_kv": 8, "num_heads": 2, "cross_attention_dim": 32, "attention_head_dim": 16,
    "num_layers": 1, "num_single_layers": 1, "axes_dims_rope": [4, 4, 8], "joint_attention_dim": 32,
    "pooled_projection_dim": 16, "sample_size": 8, "addition_time_embed_dim": 8, "layers_per_block": 1,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}  # fmt: skip
diffusers: Any = _diffusers
transformers: Any = _transformers


@dataclass
class Measured:
    """One line of the log.

    Attributes:
        model: The name of the model.
        work: The work.
        seconds: Its time; None if it failed.
        peak: The peak of the allocator in bytes; None on the CPU.
        planned: The estimate of `efface plan` in bytes; None without one.
        note: Why it failed.
    """

    model: str
    work: str
    seconds: float | None = None
    peak: int | None = None
    planned: int | None = None
    note: str = ""

    def __str__(self) -> str:
        def gib(count: int | None) -> str:
            return "-" if count is None else f"{count / GIB:.2f} GiB"

        seconds = "failed" if self.seconds is None else f"{self.seconds:.2f} s"
        return f"{self.model:21} {self.work:34} {seconds:>9} {gib(self.peak):>10} {gib(self.planned):>10}  {self.note}"


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with tiny sizes."""
    small = {key: TINY.get(key, value) for key, value in config.items()}
    if "block_out_channels" in small:
        small["block_out_channels"] = [32] * len(small["block_out_channels"])
    if "transformer_layers_per_block" in small:
        small["transformer_layers_per_block"] = 1
    return small


def random_pipeline(name: str, device: str, tiny: bool) -> Any:
    """A pipeline in bf16 with random weights, and with the tokenizers of the embedded models."""
    kind, configs = MODELS[name]
    parts: dict[str, Any] = {}
    for part, (class_name, published) in configs.items():
        config = shrunk(published) if tiny else dict(published)
        if tiny and name == "Stable Diffusion 1.4" and part == "unet":
            config["cross_attention_dim"] = TINY["hidden_size"]  # of one text encoder
        if part.startswith("text_encoder"):
            tokenizer = tokenizer_for(class_name)
            parts[part.replace("text_encoder", "tokenizer")] = tokenizer
            config |= {"vocab_size": len(tokenizer)}
            config |= {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
        parts[part] = in_bf16(class_name, config, device)
    if kind == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, kind)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tokenizer_for(text_encoder: str) -> Any:
    """The tokenizer of an embedded model for a text encoder of this class."""
    if text_encoder.startswith("T5"):
        return transformers.AutoTokenizer.from_pretrained(BUILT_IN["emoji-flow"].folder / "tokenizer_2")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(BUILT_IN["emoji"].folder / "tokenizer")
    tokenizer.model_max_length = 77
    return tokenizer


def in_bf16(class_name: str, config: dict[str, Any], device: str) -> Any:
    """A part with random weights on a device."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            if hasattr(diffusers, class_name):
                return getattr(diffusers, class_name)(**config)
            encoder = getattr(transformers, class_name)
            return encoder(encoder.config_class(**config)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def measure(row: Measured, device: str, work: Callable[[], float | None]) -> Measured:
    """Run some work, which may return its own seconds, and complete the row."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        own = work()
        if device == "cuda":
            torch.cuda.synchronize()
            row.peak = torch.cuda.max_memory_allocated()
        row.seconds = time.perf_counter() - started if own is None else own
    except Exception as error:
        row.note = (" ".join(str(error).split()) or type(error).__name__)[:120]
    print(row, flush=True)
    return row


def train(pipeline: Any, size: int, checkpointing: bool) -> float:
    """Three steps of a training; returns the seconds of the last one, which samples no trajectory."""
    times: list[float] = []

    def progress(what: str, done: int, total: int, note: str = "") -> None:
        times.append(time.perf_counter())

    options: dict[str, Any] = {**STEPS, "resolution": size, "gradient_checkpointing": checkpointing}
    efface.erase(pipeline, "cat", method="lora", context=RunContext(progress=progress), **options)
    return times[-1] - times[-2]


def generate(pipeline: Any, size: int) -> None:
    """One image in two steps, by the pipeline."""
    sides = {"height": size, "width": size, "num_inference_steps": 2, "output_type": "pt"}
    pipeline("a cat", generator=torch.Generator().manual_seed(0), **sides)


def to_nf4(denoiser: nn.Module) -> None:
    """Replace the linear layers of a denoiser by NF4 layers of bitsandbytes."""
    import bitsandbytes as bnb  # pyright: ignore

    for module in list(denoiser.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                quantised: Any = bnb.nn.Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    "bias" in dict(layer.named_parameters()),
                    torch.bfloat16,
                    quant_type="nf4",
                )
                quantised.load_state_dict(layer.state_dict())
                setattr(module, name, quantised.to(layer.weight.device))


def estimates(name: str, size: int) -> dict[tuple[str, str, str], int]:
    """The estimates of `efface plan` in bf16, by work, offloading and quantisation."""
    found: dict[tuple[str, str, str], int] = {}
    with tempfile.TemporaryDirectory() as folder:
        configs = write_configs(name, Path(folder) / "model")
        for method, preset in (("uce", PUBLISHED), ("lora", "esd")):
            work = efface.plan(configs, method, size=size, preset=preset).work
            found |= {(one.work, one.offload, one.quantize): one.bytes for one in work if one.dtype == "bf16"}
    return found


def of_model(name: str, size: int, device: str, tiny: bool) -> Iterator[Measured]:
    """All measurements of one model."""
    planned = {} if tiny else estimates(name, size)
    pipeline = random_pipeline(name, device, tiny)

    def row(work: str, *key: str) -> Measured:
        return Measured(name, work, planned=planned.get((key[0], key[1], key[2])))

    def erase() -> None:
        efface.erase(pipeline, "cat", to="dog", method="uce")

    yield measure(row("uce", "erase", "none", "none"), device, erase)
    for checkpointing in (False, True):
        title = "train with gradient checkpointing" if checkpointing else "train"
        yield measure(row(title, title, "none", "none"), device, lambda on=checkpointing: train(pipeline, size, on))
    yield measure(row("generate", "generate", "none", "none"), device, lambda: generate(pipeline, size))
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    yield measure(Measured(name, "generate, NF4"), device, lambda: generate_in_nf4(pipeline, part, size))
    denoiser = getattr(pipeline, part)
    denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    yield measure(row("generate, fp8", "generate", "none", "fp8"), device, lambda: generate(pipeline, size))
    if device == "cuda":
        pipeline.enable_model_cpu_offload()
        offloaded = row("generate, fp8, offload", "generate", "model", "fp8")
        yield measure(offloaded, device, lambda: generate(pipeline, size))


def generate_in_nf4(pipeline: Any, part: str, size: int) -> None:
    """One image with a copy of the denoiser in NF4; the denoiser waits on the CPU."""
    denoiser = getattr(pipeline, part)
    device = denoiser.device
    quantised = copy.deepcopy(denoiser)
    denoiser.to("cpu")
    try:
        to_nf4(quantised)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        setattr(pipeline, part, quantised)
        generate(pipeline, size)
    finally:
        setattr(pipeline, part, denoiser.to(device))


def main() -> None:
    """Measure every model, and write the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU; writes nothing")
    parser.add_argument("--only", choices=list(NAMES), help="one model")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.exit(2, "There is no CUDA device here; --tiny runs the same work with tiny models on the CPU.\n")
    device = "cpu" if options.tiny else "cuda"
    print(f"{'model':21} {'work':34} {'time':>9} {'peak':>10} {'planned':>10}", flush=True)
    lines: list[str] = []
    for name, size in NAMES.items():
        if options.only in (None, name):
            lines += map(str, of_model(name, 128 if options.tiny else size, device, options.tiny))
    if not options.tiny:
        head = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, diffusers {diffusers.__version__}"
        RESULT.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
