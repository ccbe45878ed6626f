"""How models are loaded and run: types, offloading, quantisation, attention and compilation, on tiny real classes."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Eraser, Model, Runtime, open_model
from efface.models.denoising import Conditions
from efface.models.runtime import chosen_dtype, is_group_offloaded, resolve_device
from efface.models.storage.folder import Folder
from efface.models.text_gram import fingerprint

OFFLOADS = ("model", "group", "sequential")
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


@pytest.fixture(scope="module")
def made(saved: Callable[[str], Path]) -> Callable[[str], Eraser]:
    """An eraser of a family, made in float32."""
    erasers: dict[str, Eraser] = {}
    return lambda family: erasers.setdefault(family, efface.erase(saved(family), "cat", to="dog"))


def pixels(folder: Path, runtime: Runtime, eraser: Eraser | None = None) -> np.ndarray:
    images = efface.generate("a cat", model=folder, eraser=eraser, steps=2, size=(16, 16), device=runtime).images
    return np.asarray(images[0], dtype=np.float32)


def predictions(model: Model) -> Tensor:
    with torch.no_grad():
        text = model.denoiser_text(model.embed(["a cat"]))
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return model.predict(x, torch.tensor([500]), Conditions(text))


@pytest.mark.parametrize(
    ("family", "offload"),
    [(family, offload) for family in ("sd2", "flux") for offload in OFFLOADS] + [("lumina2", "sequential")],
)
def test_offloading_changes_no_image_of_an_eraser(saved: Any, made: Any, family: str, offload: str) -> None:
    plain = pixels(saved(family), Runtime("cpu"), made(family))
    assert np.array_equal(pixels(saved(family), Runtime("cpu", offload=offload), made(family)), plain)
    assert not np.array_equal(pixels(saved(family), Runtime("cpu")), plain)


@pytest.mark.parametrize(
    ("family", "offload"), [*(("flux", offload) for offload in OFFLOADS), ("lumina2", "sequential")]
)
def test_erasing_with_offloading_gives_the_same_eraser(saved: Any, made: Any, family: str, offload: str) -> None:
    runtime = Runtime("cpu", offload=offload)
    found = efface.erase(saved(family), "cat", to="dog", device=runtime)
    for one, other in zip(found.edits, made(family).edits, strict=True):
        assert torch.equal(one.left, other.left)  # pyright: ignore
    model = open_model(saved(family), runtime)
    before = fingerprint(model)
    assert model.denoiser is not None
    assert fingerprint(model) == before == fingerprint(open_model(saved(family)))


def require(quantize: str) -> None:
    """Skip the test if the package of a quantisation is not installed."""
    if quantize in PACKAGES:
        pytest.importorskip(PACKAGES[quantize])


@pytest.mark.parametrize(
    "options", [{"offload": "sequential"}, {"quantize": "fp8"}, {"quantize": "int8"}, {"quantize": "nf4"}]
)
def test_weights_that_cannot_be_edited_are_rejected(tiny_sd: Path, options: dict[str, Any]) -> None:
    runtime = Runtime("cpu", **options)
    require(runtime.quantize)
    short: dict[str, Any] = {"iterations": 1, "ddim_steps": 2, "train_method": "selfattn"}
    eraser = efface.erase(tiny_sd, "cat", method="esd", **short)
    model = open_model(tiny_sd, runtime)
    with pytest.raises(BadInput, match=r"not in memory|quantised"):
        eraser.attach(model)
    with pytest.raises(BadInput, match=r"offloaded cannot be trained|quantised or compiled cannot be trained"):
        efface.erase(model, "cat", method="esd", **short)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_an_eraser_of_weights_acts_on_offloaded_weights(tiny_sd: Path, offload: str) -> None:
    eraser = efface.erase(tiny_sd, "cat", method="esd", iterations=1, ddim_steps=2, train_method="selfattn", lr=1e-2)
    plain, runtime = open_model(tiny_sd), Runtime("cpu", offload=offload)
    with eraser.attach(plain):
        expected = predictions(plain)
    model = open_model(tiny_sd, runtime)
    with eraser.attach(model):
        assert torch.equal(predictions(model), expected)
    assert torch.equal(predictions(model), predictions(plain))
    with pytest.raises(BadInput, match="offloaded cannot be trained"):
        efface.erase(model, "cat", method="esd", iterations=1)


def test_a_pipeline_whose_layers_are_offloaded_in_groups_is_not_trained(tiny_sd: Path) -> None:
    pipeline = open_model(tiny_sd).pipeline()
    pipeline.unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert is_group_offloaded(pipeline.unet)
    with pytest.raises(BadInput, match="offloaded cannot be trained"):
        efface.erase(pipeline, "cat", method="esd", iterations=1)


@pytest.mark.parametrize("family", ["sd2", "flux"])
@pytest.mark.parametrize("quantize", ["fp8", "int8", "nf4"])
def test_the_maps_that_read_the_text_are_not_quantised(saved: Any, made: Any, family: str, quantize: str) -> None:
    require(quantize)
    model, plain = open_model(saved(family), Runtime("cpu", quantize=quantize)), open_model(saved(family))
    before, unquantised = predictions(model), predictions(plain)
    assert 0 < (before - unquantised).norm() < 0.2 * unquantised.norm()
    assert fingerprint(model) == fingerprint(plain)
    assert model.hash == plain.hash
    with made(family).attach(model):
        attached = predictions(model)
    baked = made(family).bake(model)
    assert (predictions(model) - attached).abs().max() <= 1e-5
    assert not torch.equal(attached, before)
    baked.undo()
    assert torch.equal(predictions(model), before)


def test_nf4_stores_4_bits_and_a_8_bit_scale_for_64_entries(saved: Any) -> None:
    require("nf4")
    model = open_model(saved("flux"), Runtime("cpu", quantize="nf4"))
    packed: Any = [one for one in model.denoiser.parameters() if type(one).__name__ == "Params4bit"]
    assert packed
    for weight in packed:
        entries = weight.quant_state.shape.numel()
        assert weight.nbytes + weight.quant_state.absmax.nbytes == entries // 2 + -(-entries // 64)


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("float32", "float32")])
def test_an_eraser_of_float32_acts_in_half_precision(saved: Any, made: Any, dtype: str, name: str) -> None:
    model = open_model(saved("flux"), Runtime("cpu", dtype=dtype))
    assert str(model.dtype) == f"torch.{name}"
    row = efface.generate("a cat", model=model, eraser=made("flux"), steps=1, size=(16, 16)).rows[0]
    assert row["precision"] == f"cpu {name}"
    eraser = efface.erase(model, "cat", to="dog")
    assert eraser.provenance.get("runtime", {}) == ({} if name == "float32" else {"dtype": name})
    for one, other in zip(eraser.edits, made("flux").edits, strict=True):
        left, expected = one.left.double() @ one.right.double().T, other.left.double() @ other.right.double().T  # pyright: ignore
        assert (left - expected).norm() <= 0.05 * expected.norm()
    baked = eraser.bake(model)
    assert all(parameter.dtype == model.dtype for parameter in model.denoiser.parameters())
    baked.undo()


def test_the_type_auto_is_bf16_for_large_denoisers(tmp_path: Path, tiny_sd: Path) -> None:
    cpu = torch.device("cpu")
    assert chosen_dtype(Runtime(), Folder(tiny_sd), "unet", "sd", cpu) == torch.float32
    for rows, expected in ((2_900_000, torch.float32), (3_100_000, torch.bfloat16)):
        size = 2 * rows * 1024
        header = json.dumps({"w": {"dtype": "BF16", "shape": [rows, 1024], "data_offsets": [0, size]}}).encode()
        file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            stream.truncate(8 + len(header) + size)  # sparse: it takes no space
        assert chosen_dtype(Runtime(), Folder(tmp_path), "transformer", "flux", cpu) == expected
        assert chosen_dtype(Runtime(dtype="fp16"), Folder(tmp_path), "transformer", "flux", cpu) == torch.float16


def test_attention_and_compilation_are_passed_to_diffusers(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    plain = predictions(open_model(saved("flux")))
    chosen = open_model(saved("flux"), Runtime("cpu", attention="_native_math"))
    assert (predictions(chosen) - plain).abs().max() <= 1e-6
    names = {processor._attention_backend.value for processor in chosen.denoiser.attn_processors.values()}
    assert names == {"_native_math"}
    with pytest.raises(BadInput, match="cannot use the attention 'magic'"):
        open_model(saved("flux"), Runtime("cpu", attention="magic"))
    with pytest.raises(BadInput, match="has no backends"):
        open_model(saved("sd2"), Runtime("cpu", attention="native"))
    compiled = open_model(saved("flux"), Runtime("cpu", compile=True)).denoiser
    assert any(module._compiled_call_impl is not None for module in compiled.modules())


@pytest.mark.parametrize(("quantize", "module"), [("int8", "torchao.quantization"), ("nf4", "bitsandbytes.nn")])
def test_a_missing_package_is_named(saved: Any, quantize: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=f"pip install {PACKAGES[quantize]}"):
        open_model(saved("flux"), Runtime("cpu", quantize=quantize))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"offload": "disk"},
        {"quantize": "int4"},
        {"quantize": "int8", "offload": "group"},
        {"quantize": "nf4", "offload": "sequential"},
        {"compile": True, "offload": "sequential"},
    ],
)
def test_values_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Runtime(**options)


def test_a_loaded_pipeline_takes_no_runtime(saved: Any) -> None:
    with pytest.raises(BadInput, match="loaded already"):
        efface.generate("a cat", model=open_model(saved("flux")).pipeline(), device=Runtime("cpu", offload="model"))


@pytest.mark.parametrize("device", [Runtime(), Runtime(dtype="bf16"), "auto"])
def test_a_model_opens_on_the_fastest_device_by_default(device: Runtime | str) -> None:
    assert open_model("emoji", device).device == torch.device(resolve_device("auto"))


@pytest.mark.parametrize("device", ["gpu", Runtime("cuda:99"), "cuda:99"])
def test_a_device_that_is_not_here_is_rejected(device: Runtime | str) -> None:
    with pytest.raises(BadInput, match=r"device|Unknown"):
        open_model("emoji", device)
