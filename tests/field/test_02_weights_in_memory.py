"""Item 2: weights that are offloaded or quantised are rejected, and never reported as edited."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.layerwise_casting import apply_layerwise_casting
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

import efface
from efface import BadInput, Eraser, open_model


@pytest.fixture
def pipe(tiny_sd: Path) -> Any:
    kind: Any = StableDiffusionPipeline
    return kind.from_pretrained(tiny_sd)


@pytest.fixture
def eraser(tiny_sd: Path) -> Eraser:
    return efface.erase(tiny_sd, "cat", to="dog")


def offloaded(pipe: Any, tmp_path: Path) -> None:
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))


def on_disk(pipe: Any, tmp_path: Path) -> None:
    disk_offload(pipe.unet, str(tmp_path / "disk"), execution_device=torch.device("cpu"))


def on_meta(pipe: Any, tmp_path: Path) -> None:
    pipe.unet.to("meta")


def text_encoder(pipe: Any, tmp_path: Path) -> None:
    cpu_offload(pipe.text_encoder, execution_device=torch.device("cpu"))


def groups_on_disk(pipe: Any, tmp_path: Path) -> None:
    pipe.unet.enable_group_offload(
        torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path / "groups")
    )


def groups_of_the_text_encoder(pipe: Any, tmp_path: Path) -> None:
    path, cpu = str(tmp_path / "groups"), torch.device("cpu")
    apply_group_offloading(pipe.text_encoder, cpu, offload_type="leaf_level", offload_to_disk_path=path)


def autoencoder(pipe: Any, tmp_path: Path) -> None:
    disk_offload(pipe.vae, str(tmp_path / "disk"), execution_device=torch.device("cpu"))


@pytest.mark.parametrize(
    "change",
    [offloaded, on_disk, on_meta, text_encoder, groups_on_disk, groups_of_the_text_encoder, autoencoder],
)
def test_weights_that_are_not_in_memory(
    pipe: Any, eraser: Eraser, tmp_path: Path, change: Callable[[Any, Path], None]
) -> None:
    change(pipe, tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: eraser.bake(pipe),
        lambda: eraser.attach(pipe),
        lambda: efface.erase(pipe, "cat", to="dog"),
        lambda: efface.generate("a cat", model=pipe, steps=1),
    ]
    for use in uses:
        with pytest.raises(BadInput, match="not in memory"):
            use()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits(pipe: Any, eraser: Eraser, dtype: torch.dtype) -> None:
    pipe.unet.to(dtype)
    before = {name: weight.view(torch.uint8).clone() for name, weight in pipe.unet.named_parameters()}
    with pytest.raises(BadInput, match="quantised"):
        eraser.bake(pipe)
    assert all(torch.equal(before[name], weight.view(torch.uint8)) for name, weight in pipe.unet.named_parameters())


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_packed_modules(pipe: Any, eraser: Eraser, part: str) -> None:
    quantisation: Any = import_module("torch.ao.quantization")
    setattr(pipe, part, quantisation.quantize_dynamic(getattr(pipe, part), {nn.Linear}, dtype=torch.qint8))
    for use in (eraser.bake, eraser.attach, lambda it: efface.generate("a cat", model=it, steps=1)):
        with pytest.raises(BadInput, match="packs them"):
            use(pipe)


def layerwise(network: Any) -> None:
    apply_layerwise_casting(network, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=("norm",))


def quanto(bits: str) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        library: Any = pytest.importorskip("optimum.quanto")
        library.quantize(network, weights=getattr(library, bits))
        library.freeze(network)

    return change


def torchao(config: str) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        library: Any = pytest.importorskip("torchao.quantization")
        library.quantize_(network, getattr(library, config)())

    return change


def bitsandbytes(bits: int) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        layers: Any = pytest.importorskip("bitsandbytes").nn
        for module in list(network.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Linear:
                    bias: Any = child.bias
                    shape, weight = (child.in_features, child.out_features, bias is not None), child.weight.data
                    if bits == 4:
                        new = layers.Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
                        new.weight = layers.Params4bit(weight, requires_grad=False, quant_type="nf4")
                    else:
                        new = layers.Linear8bitLt(*shape, has_fp16_weights=False)
                        new.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
                    new.bias = bias
                    setattr(module, name, new.to("cpu"))

    return change


QUANTISED = {
    "layerwise fp8": layerwise,
    "quanto int8": quanto("qint8"), "quanto int4": quanto("qint4"), "quanto fp8": quanto("qfloat8"),
    "torchao int8": torchao("Int8WeightOnlyConfig"), "torchao fp8": torchao("Float8WeightOnlyConfig"),
    "bitsandbytes nf4": bitsandbytes(4), "bitsandbytes int8": bitsandbytes(8),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_denoisers(pipe: Any, eraser: Eraser, tmp_path: Path, kind: str) -> None:
    QUANTISED[kind](pipe.unet)
    (name, weight), *_ = open_model(pipe).text_weights()
    layer = pipe.unet.get_submodule(name.removesuffix(".weight"))
    with torch.no_grad():
        product = layer(torch.eye(weight.shape[1])).T
    # The layers of bitsandbytes quantise their input too.
    assert (weight - product).abs().max() <= (2e-2 if kind == "bitsandbytes int8" else 1e-5) * product.abs().max()
    own = efface.erase(pipe, "cat", to="dog")
    before, digest = image(pipe), open_model(pipe).hash
    assert not np.array_equal(image(pipe, own), before)
    assert np.array_equal(image(pipe, eraser), image(pipe, eraser))
    assert np.array_equal(image(pipe), before)
    assert open_model(pipe).hash == digest
    rejected: list[Callable[[], object]] = [
        lambda: eraser.bake(pipe),
        lambda: efface.export(eraser, "kohya", tmp_path / "lora.safetensors", model=pipe),
        lambda: efface.export(eraser, "diffusers", tmp_path / "folder", model=pipe),
        lambda: efface.export(eraser, "single-file", tmp_path / "file.safetensors", model=pipe),
        lambda: efface.erase(pipe, "cat", to="dog", method="oce"),
        lambda: efface.erase(pipe, "cat", method="esd", iterations=1),
        lambda: efface.erase(pipe, "cat", to="dog", method="nullspace", layers="0,1"),
    ]
    for use in rejected:
        with pytest.raises(BadInput, match="quantised"):
            use()
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(image(pipe), before)


@pytest.mark.parametrize("kind", ["layerwise fp8", "quanto int8", "torchao int8", "bitsandbytes nf4"])
def test_quantised_text_encoders(pipe: Any, kind: str) -> None:
    QUANTISED[kind](pipe.text_encoder)
    own, before = efface.erase(pipe, "cat", to="dog"), image(pipe)
    attached = image(pipe, own)
    assert not np.array_equal(attached, before)
    baked = own.bake(pipe)
    assert np.abs(image(pipe) - attached).max() <= 1
    baked.undo()
    assert np.array_equal(image(pipe), before)
    with pytest.raises(BadInput, match="quantised"):
        efface.erase(pipe, "cat", to="dog", method="nullspace", layers="0,1")


def image(pipe: Any, eraser: Eraser | None = None) -> np.ndarray:
    images = efface.generate("a cat", model=pipe, eraser=eraser, steps=1, size=(16, 16)).images
    return np.asarray(images[0], dtype=np.float32)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_folders_of_quantised_weights(tiny_sd: Path, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(tiny_sd, tmp_path / "model")
    config = json.loads((folder / part / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="stored quantised"):
        efface.erase(folder, "cat", to="dog")


@pytest.mark.parametrize("scale", ["scale_weight", "SCB", "weight.absmax"])
def test_files_with_scales_of_weights(tiny_sd: Path, tmp_path: Path, scale: str) -> None:
    folder = shutil.copytree(tiny_sd, tmp_path / "model")
    (file,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("attn2.to_k.weight"))
    tensors[name.removesuffix("weight") + scale] = torch.ones(1)
    save_file(tensors, file)
    uses = (lambda: efface.erase(folder, "cat", to="dog", method="rece"), lambda: open_model(folder).denoiser)
    for use in uses:
        with pytest.raises(BadInput, match="quantised weights"):
            use()


def test_weights_in_memory_are_edited(pipe: Any, eraser: Eraser) -> None:
    before = {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    baked = eraser.bake(pipe)
    changed = [name for name, weight in pipe.unet.named_parameters() if not torch.equal(before[name], weight)]
    assert len(changed) == len(baked) > 0
