import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface import BadFile, BadInput, open_model
from efface.models.open import BUILT_IN


def test_an_unknown_model_is_answered_with_what_was_tried(tmp_path: Path) -> None:
    for name, tried in (("emojy", "emoji"), (str(tmp_path), "without model_index.json"), ("a/b/c", "not a diffusers")):
        with pytest.raises(BadInput, match=tried) as caught:
            open_model(name)
        assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(BadInput, match="hub \\(no route\\)"):
        open_model("someone/some-model")


def test_hub_weights_are_brought_part_by_part(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> str:
        asked.append(allow_patterns)
        for pattern in allow_patterns:
            for path in tiny_sd.glob(pattern):
                target = tmp_path / path.relative_to(tiny_sd)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = open_model("someone/some-model")
    model.embed(["cat"])
    assert (tmp_path / "text_encoder" / "model.safetensors").exists()
    assert not list((tmp_path / "unet").glob("*.safetensors"))
    assert len(model.text_parameters()) > 0
    assert asked[1:] == [["text_encoder/*.safetensors"], ["unet/*.safetensors"]]


def test_a_pipeline_that_cannot_be_edited_is_named(tiny_sd: Path, tmp_path: Path) -> None:
    index = json.loads((tiny_sd / "model_index.json").read_text())
    for changed, message in (
        ({"_class_name": "NoSuchPipeline"}, "NoSuchPipeline, which the installed diffusers does not know"),
        ({"_class_name": "DDPMPipeline"}, "DDPMPipeline, which takes no prompt"),
        (
            {"_class_name": "LuminaPipeline", "transformer": ["diffusers", "OmniGenTransformer2DModel"]},
            "takes no encoder",
        ),
        (
            {"_class_name": "WanPipeline", "transformer": ["their_code", "Model"]},
            "no class of diffusers or transformers",
        ),
        ({"_class_name": "WanPipeline", "transformer": ["diffusers", "NoSuchModel"]}, "the installed one has none"),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index | changed))
        with pytest.raises(BadInput, match=message) as caught:
            open_model(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "model_index.json").write_text("[1")
    with pytest.raises(BadFile, match="model_index"):
        open_model(tmp_path)


def test_a_half_precision_variant_is_read_where_it_is_all_there_is(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "sd")
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = tmp_path / "sd" / part / f"{name}.safetensors"
        half = {key: tensor.half() for key, tensor in load_file(path).items()}
        save_file(half, path.with_name(f"{name}.fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    model = open_model(tmp_path / "sd")
    assert model.denoiser.dtype is torch.float32
    whole = open_model(tiny_sd).embed(["cat"]).tokens
    torch.testing.assert_close(model.embed(["cat"]).tokens, whole, rtol=1e-2, atol=1e-2)


def test_weights_that_need_pickle_are_not_read(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "sd")
    weights = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(BadFile, match="pickle"):
        open_model(tmp_path / "sd").embed(["cat"])


def test_damaged_weights_are_named(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(BadFile, match="diffusion_pytorch_model"):
        open_model(tmp_path / "sd").text_parameters()


def test_the_embedded_model_has_a_place() -> None:
    assert BUILT_IN["emoji"].folder.parts[-3:] == ("models", "emoji", "weights")
