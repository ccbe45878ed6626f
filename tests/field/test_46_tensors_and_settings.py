"""Tensors and settings whose checksum or syntax is right, but which do not fit what reads them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import open_model
from efface.edits.kinds import TextEdit, WeightEdit
from efface.eraser.eraser import Eraser
from efface.eraser.file import _seal
from efface.eraser.record import Base
from efface.eraser.schema import check_inputs
from efface.errors import BadFile, BadInput
from efface.judges.training import run as judge_training
from efface.models.emoji import HERE
from efface.models.storage.completeness import check_config
from efface.models.text.encoding import encode_ids
from efface.models.text.plain_clip import PlainClipEncoder
from efface.models.text.tokens import longest_prompt
from efface.request.record import Request
from efface.sealed import read_sealed, write_sealed


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("optimizer.0.exp_avg", lambda t: None),
        ("optimizer.0.exp_avg", lambda t: t[0]),
        ("optimizer.0.exp_avg", lambda t: t.to(torch.complex64)),
        ("optimizer.1.exp_avg_sq", lambda t: t * torch.nan),
        ("optimizer.1.exp_avg_sq", lambda t: t - 1),
        ("optimizer.1.step", lambda t: torch.tensor(-5.0)),
        ("optimizer.1.step", lambda t: t.expand(3)),
        ("optimizer.7.step", lambda t: torch.tensor(1.0)),
        ("optimizer.x.step", lambda t: torch.tensor(1.0)),
        ("model.weight", lambda t: t.T),
        ("model.weight", lambda t: t * torch.inf),
        ("model.weight", lambda t: t.to(torch.float8_e4m3fn)),
        ("model.bias", lambda t: None),
        ("other", lambda t: torch.zeros(1)),
    ],
)
def test_a_state_that_does_not_fit_its_training_starts_it_again(tmp_path: Path, name: str, change: Any) -> None:
    path = tmp_path / "training.safetensors"
    judge_training._save_state(path, *trained(), 2, "work")
    assert judge_training._load_state(path, *trained(), "work") == 2
    header, tensors = read_sealed(path, "a state")
    changed = change(tensors.pop(name, torch.zeros(1)))
    write_sealed(path, header, tensors if changed is None else {**tensors, name: changed})
    network, optimizer = trained()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert judge_training._load_state(path, network, optimizer, "work") == 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_parameter_without_a_gradient_has_no_moments_in_a_state(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    network = Network()
    optimizer = torch.optim.AdamW(network.parameters())
    network.used(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    judge_training._save_state(tmp_path / "training.safetensors", network, optimizer, 2, "work")
    assert judge_training._load_state(tmp_path / "training.safetensors", network, optimizer, "work") == 2


ROWS = torch.eye(4)


@pytest.mark.parametrize(
    "tensors",
    [
        {"up": torch.tensor(3.0), "down": ROWS},
        {"up": ROWS, "down": ROWS[0]},
        {"up": ROWS, "down": ROWS[:2]},
        {"up": ROWS.long(), "down": ROWS},
        {"delta": torch.zeros(0)},
        {"delta": torch.zeros(0, 4)},
        {"delta": torch.tensor(1.0)},
        {"delta": ROWS.bool()},
    ],
)
def test_an_edit_of_a_weight_has_tensors_that_can_change_it(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(BadFile, match=r"denoiser\.x"):
        WeightEdit("denoiser.x", **tensors)
    assert WeightEdit("denoiser.x", delta=torch.ones(3)).rank == 1  # of a bias
    with pytest.raises(BadFile, match="real numbers"):
        TextEdit(ROWS.long(), ROWS.long())


@pytest.mark.parametrize("embeddings", [ROWS[:1].long(), ROWS[:1].bool(), ROWS[0]])
def test_the_probes_of_a_base_are_rows_of_real_numbers(tmp_path: Path, embeddings: Tensor) -> None:
    path = tmp_path / "a.safetensors"
    base = Base("m", "sd", "0", ("cat",), ROWS[:1])
    Eraser(Request.make("cat"), (TextEdit(ROWS[:, :1], ROWS[:, :1]),), base, {}, {"settings": {}}).save(path)
    assert Eraser.load(path).concepts == ("cat",)
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["efface"])
    tensors = load_file(path) | {"base.embeddings": embeddings}
    header.pop("sha256")
    save_file(tensors, path, {"efface": json.dumps({**header, "sha256": _seal(header, tensors)})})
    with pytest.raises(BadFile):
        Eraser.load(path)


def test_a_method_of_another_package_names_its_inputs_as_it_likes() -> None:
    inputs = {"edited": torch.zeros(3), "owner": torch.tensor(0.5), "S": torch.zeros(2, 7), "concepts": torch.zeros(1)}
    check_inputs(inputs, "another_package", 1, 4)
    for name in inputs:
        with pytest.raises(BadFile, match="has the type"):
            check_inputs({name: inputs[name]}, "uce", 1, 4)
    for method in ("another_package", "uce"):
        with pytest.raises(BadFile, match="certificate"):
            check_inputs({"certificate.tokens": torch.zeros(2)}, method, 1, 4)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_encoder", "max_position_embeddings", float("nan")),
        ("text_encoder", "max_position_embeddings", "many"),
        ("text_encoder", "max_position_embeddings", -1),
        ("text_encoder", "num_hidden_layers", 10**9),
        ("text_encoder", "num_hidden_layers", 1.5),
        ("text_encoder", "hidden_size", None),
        ("text_encoder", "layer_norm_eps", None),
        ("unet", "cross_attention_dim", {}),
        ("unet", "down_block_types", "CrossAttnDownBlock2D"),
        ("unet", "up_block_types", [1, 2]),
        ("unet", "layers_per_block", [10**12]),
        ("unet", "transformer_layers_per_block", [[0]]),
        ("vae", "block_out_channels", 8),
        ("scheduler", "beta_start", "x"),
        ("scheduler", "num_train_timesteps", True),
    ],
)
def test_settings_of_a_model_have_plausible_values(part: str, name: str, value: object) -> None:
    file = HERE / "weights" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = json.loads(file.read_text())
    check_config(file, config)
    with pytest.raises(BadFile, match=name):
        check_config(file, {**config, name: value})


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    shutil.copytree(HERE / "weights", tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer" / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["vocab"]["cat</w>"] = 99_999
    tokenizer.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="token 99999"):
        open_model(tmp_path / "model").last_tokens(["cat"])
    encoder = open_model("emoji").text_encoder
    with pytest.raises(BadFile, match="not of one model"):
        encode_ids(encoder, torch.tensor([[99_999]]))


@pytest.mark.parametrize("change", [{"layer_norm_eps": 1}, {"num_attention_heads": 7}])
def test_settings_that_the_plain_text_encoder_does_not_support_are_left_to_transformers(
    tmp_path: Path, change: dict[str, object]
) -> None:
    from efface.models.storage.folder import Folder

    shutil.copytree(HERE / "weights", tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert PlainClipEncoder.of(Folder(tmp_path / "model"), torch.device("cpu"), torch.float32) is None
    assert PlainClipEncoder.of(Folder(HERE / "weights"), torch.device("cpu"), torch.float32) is not None


@pytest.mark.parametrize("longest", [float("inf"), "yes", True, 0, -77, None, 10**30])
def test_the_longest_prompt_is_a_number_of_tokens(longest: object) -> None:
    class Tokenizer:
        model_max_length = longest

    with pytest.raises(BadInput, match="no model_max_length that is a number"):
        longest_prompt(Tokenizer())
