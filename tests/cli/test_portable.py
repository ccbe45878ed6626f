"""compose, export and import on the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from efface import Eraser, open_model


@pytest.fixture
def dog(efface, tiny_sd) -> Path:
    path = Path("dog.safetensors")
    assert efface("erase", "dog", "--to", "horse", "--model", tiny_sd, "--preserve", "house", "-o", path).code == 0
    return path


def test_compose_answers_and_gives_concepts_back(efface, eraser, dog):
    answer = efface("compose", eraser, dog, "-o", "both.safetensors", "--json").json()
    assert answer["concepts"] == ["cat", "dog"]
    assert (answer["method"], answer["kind_of_edit"], answer["rank"]) == ("uce", "text", 2)
    assert answer["parts"] == [{"method": "uce", "concepts": ["cat", "dog"]}]
    assert Eraser.load("both.safetensors").request.preserve == ("horse", "house")
    rest = efface("compose", "both.safetensors", "--without", "cat", "--json").json()
    assert rest["concepts"] == ["dog"]
    assert rest["eraser"] == "both-composed.safetensors"
    assert efface("inspect", "both.safetensors", "--json").json()["concepts"] == ["cat", "dog"]


def test_mixtures_say_so_and_are_inspected_part_by_part(efface, eraser, tiny_sd):
    arguments = ("--method", "cure", "--model", tiny_sd, "-o", "van-gogh.safetensors")
    assert efface("erase", "van gogh", *arguments).code == 0
    ended = efface("compose", eraser, "van-gogh.safetensors", "-o", "both.safetensors", "--json")
    assert ended.json()["method"] == "composed"
    assert "one after the other" in ended.err
    content = efface("inspect", "both.safetensors", "--json").json()
    assert [part["concepts"] for part in content["components"]] == [["cat"], ["van gogh"]]
    assert [part["request"]["method"] for part in content["parts"]] == ["uce", "cure"]


def test_several_erasers_draw_what_the_composed_one_draws(efface, eraser, dog, tiny_sd):
    command = ("generate", "a cat", "--steps", 2, "--model", tiny_sd)
    assert efface("compose", eraser, dog, "-o", "both.safetensors").code == 0
    assert efface(*command, "-e", eraser, "-e", dog, "-o", "two").code == 0
    assert efface(*command, "-e", "both.safetensors", "-o", "one").code == 0
    (one,), (two,) = Path("one").glob("*.png"), Path("two").glob("*.png")
    assert one.read_bytes() == two.read_bytes()
    answer = efface(*command, "-e", eraser, "-e", dog, "--json").json()
    assert answer["folder"] == "a-cat-cat-dog"


@pytest.mark.parametrize(
    ("method", "printed"), [("oce", "split"), ("negative", "split"), ("sld", "split"), ("speed", "cannot be split")]
)
def test_what_cannot_be_split_is_refused(efface, refused, tiny_sd, method, printed):
    arguments = ("--method", method, "--model", tiny_sd, "-o", "x.safetensors")
    assert efface("erase", "cat", "dog", *arguments).code == 0
    assert printed in refused("compose", "x.safetensors", "--without", "cat", "-o", "y.safetensors")


def test_what_cannot_be_split_alone_is_split_with_its_model(efface, refused, tiny_sd):
    speed = ("--method", "speed", "--to", "dog", "--model", tiny_sd)
    assert efface("erase", "cat", "boat", *speed, "-o", "x.safetensors").code == 0
    assert efface("erase", "boat", *speed, "-o", "z.safetensors").code == 0
    split = ("compose", "x.safetensors", "--without", "cat", "-o", "y.safetensors")
    assert "--model" in refused(*split)
    assert efface(*split, "--model", tiny_sd, "--json").json()["concepts"] == ["boat"]
    one, other = (efface("inspect", f"{name}.safetensors", "--json").json()["hash"] for name in "yz")
    assert one == other


def test_compose_refuses_what_makes_no_sense(efface, refused, eraser, dog, tiny_sd, other_sd):
    assert "Nothing to compose" in refused("compose")
    assert "--without" in refused("compose", eraser)
    assert "given twice" in refused("compose", eraser, eraser, "-o", "x.safetensors")
    assert "no concept 'cow'" in refused("compose", eraser, dog, "--without", "cow", "-o", "x.safetensors")
    assert "leaves no concept" in refused("compose", eraser, "--without", "cat", "-o", "x.safetensors")
    assert "--force" in refused("compose", eraser, dog, "-o", dog)
    assert "gone.safetensors" in refused("compose", eraser, "gone.safetensors", "-o", "x.safetensors")
    assert efface("erase", "boat", "--model", other_sd, "-o", "other.safetensors").code == 0
    assert "different models" in refused("compose", eraser, "other.safetensors", "-o", "x.safetensors")
    assert "different models" in refused(
        "generate", "a cat", "-e", eraser, "-e", "other.safetensors", "--model", tiny_sd
    )


def test_export_answers_for_every_format(efface, eraser, tiny_sd):
    for format, path in (
        ("lora", "cat-lora.safetensors"),
        ("kohya", "cat-kohya.safetensors"),
        ("diffusers", "cat-diffusers"),
        ("single-file", "cat-single-file.safetensors"),
        ("uce", "cat-uce.safetensors"),
    ):
        answer = efface("export", eraser, "--format", format, "--model", tiny_sd, "--json").json()
        assert (answer["path"], answer["format"], answer["error"]) == (path, format, 0.0)
        assert answer["parameters"] == len(open_model(tiny_sd).text_parameters())
        assert answer["rank"] == (1 if format in ("lora", "kohya") else None)
        assert answer["bytes"] > 1000
    assert json.loads(Path("cat-diffusers/efface.json").read_text())["request"]["concepts"][0]["name"] == "cat"
    assert efface("generate", "a cat", "--steps", 1, "--model", "cat-diffusers").code == 0


def test_export_says_what_a_rank_loses_and_refuses_the_rest(efface, refused, eraser, tiny_sd, other_sd):
    assert efface("erase", "cat", "--method", "oce", "--model", tiny_sd, "-o", "oce.safetensors").code == 0
    command = ("export", "oce.safetensors", "--model", tiny_sd, "-o", "x.safetensors", "--format")
    assert "--rank" in refused(*command, "lora")
    ended = efface(*command, "lora", "--rank", 2, "--json")
    assert 0 < ended.json()["error"] < 1
    assert "lost" in ended.err
    assert "--force" in refused(*command, "kohya", "--rank", 2)
    assert "lora" in refused("export", eraser, "--model", tiny_sd)
    assert "kohya" in refused("export", eraser, "--model", tiny_sd, "--format", "magic")
    assert "no/folder" in refused("export", eraser, "--model", tiny_sd, "--format", "diffusers", "-o", "no/folder/x")
    assert "made for" in refused("export", eraser, "--model", other_sd, "--format", "lora", "-o", "y.safetensors")
    assert efface("erase", "cat", "--method", "sld", "--model", tiny_sd, "-o", "sld.safetensors").code == 0
    assert "in no weight" in refused(
        "export", "sld.safetensors", "--model", tiny_sd, "--format", "lora", "-o", "z.safetensors"
    )


def test_import_answers_and_the_result_is_an_eraser_like_others(efface, refused, eraser, tiny_sd):
    assert efface("export", eraser, "--format", "uce", "--model", tiny_sd, "-o", "theirs.safetensors").code == 0
    command = (
        "import",
        "theirs.safetensors",
        "--concept",
        "cat",
        "--concept",
        "boat",
        "--to",
        "dog",
        "--model",
        tiny_sd,
    )
    answer = efface(*command, "--json").json()
    assert (answer["eraser"], answer["method"]) == ("theirs-imported.safetensors", "imported")
    assert (answer["format"], answer["rank"]) == ("weights", 1)
    assert answer["parameters"] == len(load_file("theirs.safetensors"))
    content = efface("inspect", answer["eraser"], "--json").json()
    assert content["provenance"]["settings"]["sha256"] == answer["sha256"]
    assert [part["concepts"] for part in content["components"]] == [["cat", "boat"]]
    assert efface("generate", "a cat", "--steps", 1, "-e", answer["eraser"], "--model", tiny_sd, "-o", "x").code == 0
    assert "cannot be split" in refused("compose", answer["eraser"], "--without", "cat", "-o", "y.safetensors")
    assert "is this eraser" in efface(*command).out
    assert efface(*command, "--force").code == 0


def test_import_refuses_in_one_line(refused, tiny_sd):
    save_file({"up_blocks.9.weight": torch.ones(2)}, "strange.safetensors")
    torch.save(nn.Linear(2, 2), "code.pt")
    command = ("--concept", "cat", "--model", tiny_sd, "-o", "x.safetensors")
    assert "--concept" in refused("import", "strange.safetensors", "--model", tiny_sd)
    assert "up_blocks.9.weight" in refused("import", "strange.safetensors", *command)
    assert "runs no code" in refused("import", "code.pt", *command)
    assert "gone.pt" in refused("import", "gone.pt", *command)
    assert "kohya" in refused("import", "strange.safetensors", "--format", "magic", *command)
