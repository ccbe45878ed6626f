"""Tiny models with the layer counts of the published ones, erasers, and their exports, for `client_loaders.py`.

A family's folder has `model/` (diffusers' layout), `base.safetensors` with all weights of the unedited model,
`ERASER.expected.safetensors` with the weights that an eraser changes, and for each export a file or folder and an
entry in `cases.json`. Both have besides an `image` of the model. The weights have the names of diffusers and
transformers 4: `unet.conv_in.weight`, `text_encoder.text_model.encoder...`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import efface
from clients.old_diffusers import image
from conftest import write_tokenizer
from efface import Eraser, Model, Runtime, WeightEdit, open_model
from efface.eraser.attach import bake
from tiny_families import diffusers, transformers

WIDTHS = {"sd1": (32, 64, 128, 128), "sd2": (32, 64, 128, 128), "sdxl": (32, 64, 128)}
LAYERS = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}
TEXT: dict[str, tuple[int, ...]] = {"sd1": (16,), "sd2": (24,), "sdxl": (16, 24)}
_WORDS, _TOKENS = 49408, 77  # of every CLIP; ComfyUI's code has the first as a constant
RANK = 4
_TRAINED_BY_SD_SCRIPTS = (".attentions.", ".resnets.", ".downsamplers.", ".upsamplers.")


@dataclass(frozen=True)
class Case:
    """An exported file.

    Attributes:
        name: The name of its file or folder.
        eraser: What the eraser changes: `text`, `low-rank`, `encoder` or `all`.
        format: The format.
        dtype: The type of its tensors.
        rank: The largest rank; None without.
        keys: The number of tensors in the file; 0 for a folder.
    """

    name: str
    eraser: str
    format: str
    dtype: str
    rank: int | None
    keys: int


def write_family(family: str, folder: Path) -> None:
    """Write the model of a family, its erasers' exports and the expected weights into an empty folder."""
    folder.mkdir(parents=True)
    write_tokenizer(folder / "tokenizer")
    _fill_vocabulary(folder / "tokenizer" / "tokenizer.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _pipeline(family, folder / "tokenizer").save_pretrained(folder / "model")
    _write_published_layout(folder / "model")
    model = open_model(folder / "model")
    base = _weights(model)
    save_file(base, folder / "base.safetensors")
    cases: list[Case] = []
    for name, eraser in erasers(model):
        baked = bake(eraser, model)
        edited = _weights(model)
        baked.undo()
        save_file(_changed(edited, base), folder / f"{name}.expected.safetensors")
        cases += _exported(name, eraser, folder)
        if name == "all":
            cases += _ranked(eraser, folder, base, model)
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases], indent=1))


def erasers(model: Model) -> Iterator[tuple[str, Eraser]]:
    """The erasers of a model by name.

    Yields:
        `text`: UCE's, which changes what reads the text. `low-rank`: changes of rank 2 of all matrices in the blocks of
        the U-Net and the layers of the text encoders. `encoder`: of rank 2, of values and second layers of the text
        encoders alone. `all`: of full rank, of all weights, biases and norms of the U-Net.
    """
    text = efface.erase(model, "cat", "dog")
    assert isinstance(text, Eraser)
    yield "text", text
    random = torch.Generator().manual_seed(1)
    encoders = [f"{part}.{name}" for part in model.encoder_parts for name in _matrices(model.part(part), ".layers.")]
    blocks = [f"denoiser.{name}" for name in _matrices(model.denoiser, *_TRAINED_BY_SD_SCRIPTS)]
    few = [name for name in encoders if name.endswith(("v_proj.weight", "mlp.fc2.weight"))]
    yield "low-rank", replace(text, edits=tuple(_low_rank(model, name, random) for name in (*blocks, *encoders)))
    yield "encoder", replace(text, edits=tuple(_low_rank(model, name, random) for name in few))
    every = [f"denoiser.{name}" for name, _ in model.denoiser.named_parameters()]
    yield "all", replace(text, edits=tuple(_dense(model, name, random) for name in every))


def _exported(name: str, eraser: Eraser, folder: Path) -> Iterator[Case]:
    """Export an eraser in all formats that hold it."""
    formats = {"text": ("kohya", "lora", "uce", "esd", "single-file", "diffusers"), "encoder": ("kohya", "diffusers")}
    formats |= {
        "low-rank": ("kohya", "lora", "single-file", "diffusers"),
        "all": ("kohya", "uce", "esd", "single-file"),
    }
    suffixes = {"diffusers": "", "esd": ".pt"}
    for format in formats[name]:
        for dtype in ("float32", "float16"):
            file = f"{name}.{format}.{dtype}{suffixes.get(format, '.safetensors')}"
            try:
                efface.export(eraser, format, folder / file, model=folder / "model", device=Runtime("cpu", dtype=dtype))
            except efface.BadInput as error:
                print(f"{folder.name}, {name}: no {format}: {error}", flush=True)
                break
            yield Case(file, name, format, dtype, None, _keys(folder / file))


def _keys(path: Path) -> int:
    if path.is_dir():
        return 0
    if path.suffix == ".pt":
        return len(torch.load(path, weights_only=True))
    with safe_open(path, "pt") as file:
        return len(list(file.keys()))


def _ranked(eraser: Eraser, folder: Path, base: Mapping[str, Tensor], model: Model) -> Iterator[Case]:
    """Export changes of full rank as factors of a small one; the expected weights are those of the file."""
    name = f"all-rank-{RANK}"
    for dtype in ("float32", "float16"):
        file = f"{name}.kohya.{dtype}.safetensors"
        runtime = Runtime("cpu", dtype=dtype)
        efface.export(eraser, "kohya", folder / file, model=folder / "model", rank=RANK, device=runtime)
        if dtype == "float32":
            baked = bake(efface.import_eraser(folder / file, model, "cat"), model)
            save_file(_changed(_weights(model), base), folder / f"{name}.expected.safetensors")
            baked.undo()
        yield Case(file, name, "kohya", dtype, RANK, _keys(folder / file))


def _fill_vocabulary(file: Path) -> None:
    """Add words to a tokenizer that no text has, up to the size of every CLIP's vocabulary."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"filler{index}</w>": index for index in range(len(vocabulary), _WORDS)}
    file.write_text(json.dumps(content))


def _write_published_layout(model: Path) -> None:
    """Give a folder the names and files that published models have: those of transformers 4."""
    for part in model.glob("text_encoder*"):
        weights = load_file(part / "model.safetensors")
        named = {
            name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": weight
            for name, weight in weights.items()
        }
        save_file(named, part / "model.safetensors", metadata={"format": "pt"})
    for part in model.glob("tokenizer*"):
        content = json.loads((part / "tokenizer.json").read_text())["model"]
        (part / "vocab.json").write_text(json.dumps(content["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["merges"]]
        (part / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def _weights(model: Model) -> dict[str, Tensor]:
    """All weights of a model, (...), by their names in diffusers and transformers 4."""
    weights: dict[str, Tensor] = {}
    for part in ("denoiser", *model.encoder_parts, "vae"):
        for name, tensor in model.part(part).state_dict().items():
            if part not in ("denoiser", "vae") and not name.startswith(("text_model.", "text_projection")):
                name = f"text_model.{name}"
            weights[f"{part.replace('denoiser', 'unet')}.{name}"] = tensor.detach().clone().contiguous()
    return weights | {"image": image(model.pipeline())}


def _changed(edited: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in edited.items() if not torch.equal(tensor, base[name])}


def _matrices(module: torch.nn.Module, *inside: str) -> list[str]:
    """The names of all weights of linear layers and convolutions whose names contain one of the words."""
    parameters = module.named_parameters()
    return [name for name, weight in parameters if weight.ndim > 1 and any(word in name for word in inside)]


def _low_rank(model: Model, full: str, random: torch.Generator) -> WeightEdit:
    part, _, name = full.partition(".")
    rows, *columns = model.part(part).get_parameter(name).shape
    up = 0.1 * torch.randn(rows, 2, generator=random)
    return WeightEdit(full, up=up, down=0.1 * torch.randn(2, int(torch.tensor(columns).prod()), generator=random))


def _dense(model: Model, full: str, random: torch.Generator) -> WeightEdit:
    part, _, name = full.partition(".")
    shape = model.part(part).get_parameter(name).shape
    return WeightEdit(full, delta=0.05 * torch.randn(shape, generator=random))


def _pipeline(family: str, tokenizer: Path) -> Any:
    pipe = {"sd1": diffusers.StableDiffusionPipeline, "sd2": diffusers.StableDiffusionPipeline}
    encoders = [_encoder(family, index, tokenizer) for index in range(len(LAYERS[family]))]
    names = ("", "_2")
    parts = {f"text_encoder{name}": encoder for name, encoder in zip(names, encoders, strict=False)}
    parts |= {f"tokenizer{name}": _tokenizer(tokenizer) for name, _ in zip(names, encoders, strict=False)}
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    more: dict[str, Any] = {"add_watermarker": False} if family == "sdxl" else {
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False
    }  # fmt: skip
    kind = pipe.get(family, diffusers.StableDiffusionXLPipeline)
    return kind(unet=_unet(family), vae=_vae(), scheduler=scheduler, **parts, **more)


def _tokenizer(folder: Path) -> Any:
    return transformers.CLIPTokenizer.from_pretrained(folder)


def _encoder(family: str, index: int, tokenizer: Path) -> Any:
    ids, width = _tokenizer(tokenizer), TEXT[family][index]
    is_large = family == "sdxl" and index == 1
    config = transformers.CLIPTextConfig(
        vocab_size=_WORDS, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS[family][index],
        num_attention_heads=2, max_position_embeddings=_TOKENS, projection_dim=width,
        bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id, pad_token_id=ids.pad_token_id,
        hidden_act="gelu" if family == "sd2" or is_large else "quick_gelu",
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if is_large else transformers.CLIPTextModel)(config)


def _unet(family: str) -> Any:
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    down = (cross, cross, cross, plain) if family != "sdxl" else (plain, cross, cross)
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    more: dict[str, Any] = {}
    if family == "sd2":
        more = {"attention_head_dim": (2, 4, 8, 8), "use_linear_projection": True}
    elif family == "sdxl":
        more = {
            "attention_head_dim": (2, 4, 8), "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": TEXT["sdxl"][1] + 6 * 8,
        }  # fmt: skip
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=WIDTHS[family], layers_per_block=2, down_block_types=down,
        up_block_types=up, cross_attention_dim=sum(TEXT[family]), **{"attention_head_dim": 2, **more},
    )  # fmt: skip


def _vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
