from pathlib import Path

import pytest

import efface
from efface import BadRequest, Eraser
from efface.api.result import eraser_json


def test_it_returns_what_the_command_prints(answer, tiny_sd, eraser):
    other = efface.erase(tiny_sd, ["bird", "boat"], "dog", preserve=["horse"])
    eraser.save("one.safetensors")
    other.save("two.safetensors")
    printed = answer("compose", "one.safetensors", "two.safetensors", "--without", "Boat")
    composed = efface.compose(eraser, "two.safetensors", without="Boat")
    parts = printed.pop("parts")
    assert eraser_json(composed, Path(printed["eraser"])) == printed
    assert parts == [{"method": "uce", "concepts": ["cat", "bird"]}]
    assert Eraser.load(printed["eraser"]).hash == composed.hash


def test_a_concept_that_needs_the_model_is_restored_with_it(tiny_sd):
    guard = efface.erase(tiny_sd, ["cat", "bird"], method="negative")
    with pytest.raises(BadRequest, match="model="):
        efface.compose(guard, without="cat")
    restored = efface.compose(guard, without="cat", model=tiny_sd)
    assert restored.hash == efface.erase(tiny_sd, "bird", method="negative").hash


def test_one_eraser_is_returned_as_it_is(eraser):
    assert efface.compose(eraser) is eraser
    with pytest.raises(BadRequest, match="Nothing to compose"):
        efface.compose()
