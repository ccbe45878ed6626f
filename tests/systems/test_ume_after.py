"""The continual track of the U&ME challenge: concepts are erased one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import Efface
from efface import Eraser, generate, open_judge, open_model
from efface.methods import METHODS

QUICK = {
    "cie": ("-s", "iter_break=12", "-s", "images=4", "-s", "lr=1e-3", "-s", "threshold=-1"),
    "nullspace": ("-s", "layers=0,1", "-s", "epochs=1", "-s", "adam_steps=2", "-s", "batch_size=2"),
}


def test_u12_earlier_concepts_stay_erased(efface: Efface):
    for name in ("lion", "guitar"):
        assert efface("erase", name, "-o", f"{name}.safetensors").code == 0
    command = ("erase", "church", "--after", "lion.safetensors", "guitar.safetensors", "-o", "three.safetensors")
    answer = efface(*command, "--json").json()
    assert answer["concepts"] == ["lion", "guitar", "church"]
    hashes = [Eraser.load(f"{name}.safetensors").hash for name in ("lion", "guitar")]
    assert [one["hash"] for one in answer["after"]] == hashes
    assert answer["guide_from"] == {"church": "recommended"}
    model, judge = open_model("emoji"), open_judge("emoji")

    def found(eraser: str, *concepts: str) -> list[int]:
        """In how many of 2 images of each concept the judge finds it."""
        images = generate([f"a {name}" for name in concepts], model=model, eraser=eraser, n=2, seed=500)
        scores = judge.scores(np.stack([image.pixels() for image in images.outcomes]), concepts)
        yes = scores >= [judge.threshold(name) for name in concepts]
        return [int(yes[2 * i : 2 * i + 2, i].sum()) for i in range(len(concepts))]

    assert found("three.safetensors", "lion", "guitar", "church", "sailboat") == [0, 0, 0, 2]
    assert found("guitar.safetensors", "lion", "church") == [2, 2]


def test_u12_a_restored_concept_comes_back(efface: Efface, tiny_sd: Path):
    first = ("erase", "cat", "--to", "dog", "--model", tiny_sd, "-o", "cat.safetensors")
    assert efface(*first).code == 0
    second = (
        "erase",
        "house",
        "--to",
        "boat",
        "--model",
        tiny_sd,
        "--after",
        "cat.safetensors",
        "-o",
        "both.safetensors",
    )
    assert efface(*second).code == 0
    restored = efface("compose", "both.safetensors", "--without", "house", "-o", "restored.safetensors")
    assert (restored.code, "warning" in restored.err) == (0, False)
    assert Eraser.load("restored.safetensors").hash == Eraser.load("cat.safetensors").hash
    ended = efface("compose", "both.safetensors", "--without", "cat", "-o", "house.safetensors")
    assert ended.code == 0
    assert "'house' was erased on a model without 'cat', which is restored" in ended.err
    assert Eraser.load("house.safetensors").concepts == ("house",)


def test_u12_the_training_of_another_model_is_not_resumed(efface: Efface, tiny_sd: Path):
    """A training after an eraser starts from the edited model, also if checkpoints of the unedited one exist."""
    assert efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "-o", "cat.safetensors").code == 0
    quick = ("--method", "cie", "--model", tiny_sd, "-s", "images=2", "-s", "sampling_steps=2", "-s", "lr=1e-3")
    command = ("erase", "house", *quick, "-s", "iter_break=2", "-s", "threshold=-1")
    assert efface(*command, "-s", "save_freq=1", "--after", "cat.safetensors", "-o", "both.safetensors").code == 0
    step = Eraser.load(next(Path("both.training").rglob("*step*1*.safetensors")))
    assert set(step.concepts) == {"cat", "house"}  # the erasers of intermediate steps erase the earlier concepts too
    assert len(step.parts) == 2
    model = open_model(tiny_sd)
    with step.attach(model):
        assert torch.isfinite(model.denoiser.get_parameter(model.text_parameters()[0])).all()
    assert efface(*command, "-o", "house.safetensors").code == 0
    house = Eraser.load("house.safetensors")
    both = Eraser.load("both.safetensors")
    assert both.parts[0].concepts == house.concepts
    assert both.parts[0].hash != house.hash
    # The earlier edit of the text is stored as changes of the same weights.
    assert both.kind_of_edit == "weight"


def test_u12_after_an_edit_of_the_text_encoder(efface: Efface, tiny_sd: Path):
    first = ("erase", "cat", "--to", "dog", "--method", "nullspace", *QUICK["nullspace"], "--model", tiny_sd)
    assert efface(*first, "-o", "cat.safetensors").code == 0
    command = ("erase", "house", "--to", "boat", "--model", tiny_sd, "--after", "cat.safetensors")
    for name, options in (("text", ()), ("encoder", ("--method", "nullspace", *QUICK["nullspace"]))):
        out = f"{name}.safetensors"
        assert efface(*command, *options, "-o", out).code == 0
        assert efface("generate", "a house", "--eraser", out, "--model", tiny_sd, "--steps", 2, "-o", name).code == 0
        row = json.loads(Path(name, "metadata.jsonl").read_text().splitlines()[0])
        assert row["eraser"] == Eraser.load(out).hash


@pytest.mark.parametrize("method", [name for name in METHODS.names() if METHODS.get(name).after is None])
def test_u12_a_guard_cannot_erase_after_others(efface: Efface, refused: Callable[..., str], tiny_sd: Path, method: str):
    assert efface("erase", "cat", "--model", tiny_sd, "-o", "cat.safetensors").code == 0
    command = ("erase", "dog", "--method", method, "--model", tiny_sd, "--after", "cat.safetensors")
    assert f"{method} cannot erase after other erasers" in refused(*command)
    assert efface("erase", "cat", "--method", method, "--model", tiny_sd, "-o", "guard.safetensors").code == 0
    command = ("erase", "dog", "--model", tiny_sd, "--after", "guard.safetensors")
    assert "acts while the model runs" in refused(*command)


def test_u12_every_method_reports_whether_it_supports_this(efface: Efface):
    listed = efface("methods", "--json").json()["methods"]
    assert {entry["name"]: entry["after"] for entry in listed} == {
        name: METHODS.get(name).after for name in METHODS.names()
    }
    text = efface("methods").out
    assert text.count("--after: solved on the edited model") >= 10
    assert text.count("--after: not supported") == 3


def test_u12_bad_earlier_erasers(efface: Efface, refused: Callable[..., str], tiny_sd: Path, other_sd: Path):
    assert efface("erase", "cat", "--model", tiny_sd, "-o", "cat.safetensors").code == 0
    assert efface("erase", "cat", "--model", other_sd, "-o", "other.safetensors").code == 0
    Path("cut.safetensors").write_bytes(Path("cat.safetensors").read_bytes()[:200])
    Path("empty").mkdir()
    command = ("erase", "dog", "--model", tiny_sd)
    assert "'Cat' is erased already" in refused("erase", "Cat", "--model", tiny_sd, "--after", "cat.safetensors")
    assert "gone.safetensors" in refused(*command, "--after", "cat.safetensors", "gone.safetensors")
    assert "cut.safetensors" in refused(*command, "--after", "cut.safetensors")
    assert "empty" in refused(*command, "--after", "empty")
    assert "The eraser was made for" in refused(*command, "--after", "other.safetensors")
    assert "is given twice" in refused(*command, "--after", "cat.safetensors", "cat.safetensors")
    assert "--after" in refused(*command, "--after")
    debias = ("--goal", "debias", "--to", "horse", "--to", "bird", "--after", "cat.safetensors")
    assert "--after continues erasing" in refused(*command, *debias)
    Path("concepts.csv").write_text("concept\nhorse\n")
    each = ("erase", "--each", "concepts.csv", "--model", tiny_sd, "-o", "erasers")
    assert "no --after" in refused(*each, "--after", "cat.safetensors")
