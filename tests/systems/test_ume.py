"""The U&ME challenge entry: its commands and files, with the effect that its documentation states."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from command_line import Efface
from efface import Eraser, open_model

LAYERS = (0, 1)


def write_entry_folder(folder: Path, model: Path, concept: str) -> dict[str, Tensor]:
    """A folder as the entry's scripts write it, one pickled linear layer per file; gives the edited weights."""
    folder.mkdir()
    encoder, edited = open_model(model).text_encoder, dict[str, Tensor]()
    for index in LAYERS:
        layer = encoder.get_submodule(f"encoder.layers.{index}.mlp.fc2")
        assert isinstance(layer, nn.Linear)
        copy = nn.Linear(layer.in_features, layer.out_features)
        copy.load_state_dict(layer.state_dict())
        with torch.no_grad():
            copy.weight += 0.2 * torch.randn(copy.weight.shape, generator=torch.Generator().manual_seed(index))
        torch.save(copy, folder / f"text_encoder.text_model.encoder.layers[{index}].mlp.fc2{concept}")
        edited[f"encoder.layers.{index}.mlp.fc2.weight"] = copy.weight.detach()
    return edited


def pixels(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]


@pytest.mark.parametrize("name", ["BlueJay", "Blue Jay"])
def test_u2_the_entrys_folder_is_imported(efface: Efface, tiny_sd: Path, name: str):
    edited = write_entry_folder(Path(name), tiny_sd, name)
    ended = efface("import", f"{name}/", "--model", tiny_sd, "--json")
    answer = ended.json()
    assert (answer["concepts"], answer["format"], answer["parameters"]) == (["Blue Jay"], "layers", len(LAYERS))
    model = open_model(tiny_sd)
    with Eraser.load(answer["eraser"]).attach(model):
        state = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items()}
    for key, weight in edited.items():
        torch.testing.assert_close(state[key], weight, rtol=1e-5, atol=1e-5)


def test_u2_the_entrys_folder_generates_the_images_of_its_model(efface: Efface, tiny_sd: Path, tmp_path: Path):
    edited = write_entry_folder(Path("Blue Jay"), tiny_sd, "Blue Jay")
    pipeline = open_model(tiny_sd).pipeline()
    pipeline.text_encoder.load_state_dict(edited, strict=False)
    pipeline.save_pretrained(tmp_path / "theirs")
    command = ("generate", "a blue bird", "-n", 3, "--steps", 3)
    ended = efface(*command, "--model", tiny_sd, "--eraser", "Blue Jay/", "-o", "ours")
    assert "Blue Jay: imported, format layers" in ended.err
    assert efface(*command, "--model", tmp_path / "theirs", "-o", "theirs").code == 0
    assert efface(*command, "--model", tiny_sd, "-o", "before").code == 0
    assert pixels("ours") == pixels("theirs") != pixels("before")


class Harmful:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("harmed"),)


def test_u2_nothing_in_a_folder_is_executed(refused: Callable[..., str], tiny_sd: Path):
    folder = Path("Blue Jay")
    folder.mkdir()
    path = folder / "text_encoder.text_model.encoder.layers[1].mlp.fc2Blue Jay"
    command = ("generate", "a bird", "--model", tiny_sd, "--eraser", "Blue Jay")
    path.write_bytes(pickle.dumps(Harmful()))
    assert "holds more than tensors" in refused(*command)
    torch.save(Harmful(), path)
    assert "holds more than tensors" in refused(*command)
    torch.save(nn.Conv2d(1, 1, 1), path)
    assert "holds more than tensors" in refused(*command)
    torch.save({"weight": torch.zeros(2, 2)}, path)
    assert "holds no linear layer" in refused(*command)
    torch.save(nn.Linear(8, 8), path)
    assert "is for another model" in refused(*command)
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in refused(*command)
    path.unlink()
    assert "has no layers" in refused(*command)
    assert not Path("harmed").exists()


def text_eraser(efface: Efface, model: Path) -> Path:
    """An eraser that changes the text encoder."""
    write_entry_folder(Path("Blue Jay"), model, "Blue Jay")
    assert efface("import", "Blue Jay", "--model", model, "-o", "blue-jay.safetensors").code == 0
    return Path("blue-jay.safetensors")


def test_u3_other_pipelines_use_the_text_encoder(efface: Efface, tiny_sd: Path):
    from transformers import CLIPTextModel, CLIPTokenizer

    eraser = text_eraser(efface, tiny_sd)
    command = ("export", eraser, "--format", "text-encoder", "--model", tiny_sd, "-o", "encoder")
    assert efface(*command).code == 0
    exported = CLIPTextModel.from_pretrained("encoder")
    tokens = CLIPTokenizer.from_pretrained("encoder")("a blue bird", return_tensors="pt").input_ids
    model = open_model(tiny_sd)
    before = model.text_encoder(tokens)[0].detach()
    with Eraser.load(eraser).attach(model):
        edited = model.text_encoder(tokens)[0].detach()
    torch.testing.assert_close(exported(tokens)[0], edited, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(edited, before, atol=1e-2)
    assert "is this export" in efface(*command).out
    assert efface(*command, "--force").code == 0


def test_u3_an_eraser_of_the_denoiser_has_no_text_encoder(efface: Efface, refused: Callable[..., str], tiny_sd: Path):
    assert efface("erase", "cat", "--model", tiny_sd, "-o", "cat.safetensors").code == 0
    command = ("export", "cat.safetensors", "--format", "text-encoder", "--model", tiny_sd, "-o", "encoder")
    assert "this format has only the text encoder" in refused(*command)


def test_u4_images_of_an_edited_model(efface: Efface):
    """The embedded model draws a cat for the prompt, and no cat with the eraser."""
    assert efface("erase", "cat", "--to", "dog", "-o", "cat.safetensors").code == 0
    command = ("generate", "a cat", "-n", 10, "--batch-size", 4)
    assert efface(*command, "-o", "before").code == 0
    assert efface(*command, "--eraser", "cat.safetensors", "-o", "after").code == 0
    judged = (efface("judge", folder, "--question", "cat", "--json").json() for folder in ("before", "after"))
    rates = [answer["questions"]["cat"] for answer in judged]
    assert [rate["yes"] + rate["no"] for rate in rates] == [10, 10]
    assert rates[0]["yes"] >= 9
    assert rates[1]["yes"] <= 1
