import json
from pathlib import Path

import pytest

from efface import Model, open_model
from efface.generation import Sampling
from efface.models import emoji


def test_the_catalogue_is_read_into_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "objects": [
            {"name": "cat", "synonyms": ["kitten"], "held_out": ["feline"], "near": ["tiger"], "guide": "dog"},
            {"name": "bomb", "synonyms": [], "held_out": [], "near": [], "guide": None, "theme": "weapon", "id": 3},
        ],
        "styles": [{"name": "flat", "words": ["plain"], "guide": "3d"}],
        "templates": ["a {object} in {style} style"],
        "held_out_cells": [["cat", "flat"]],
        "memorised": {"caption": "a caption"},
    }
    (tmp_path / "catalogue.json").write_text(json.dumps(content))
    monkeypatch.setattr(emoji, "HERE", tmp_path)
    emoji.catalogue.cache_clear()
    catalogue = emoji.catalogue()
    emoji.catalogue.cache_clear()
    assert catalogue.objects[0] == emoji.WorldObject("cat", ("kitten",), ("feline",), ("tiger",), "dog")
    assert catalogue.objects[1] == emoji.WorldObject("bomb", theme="weapon")
    assert catalogue.styles == (emoji.WorldStyle("flat", ("plain",), "3d"),)
    assert (catalogue.held_out_cells, catalogue.memorised) == ((("cat", "flat"),), "a caption")


def test_the_built_in_model_says_what_it_draws_and_who_judges_it(tiny_model: Model) -> None:
    model = open_model("emoji")
    assert model.world is emoji.catalogue()
    assert "cat" in [thing.name for thing in emoji.catalogue().objects]
    assert (model.default_judge, model.clip) == ("emoji", "emoji")
    assert emoji.catalogue().memorised_picture.is_file()
    assert Sampling.default(model) == Sampling(steps=14, guidance=7.0, batch_size=64)
    assert (tiny_model.world, tiny_model.default_judge, tiny_model.clip, tiny_model.sampling) == (None,) * 4
    assert Sampling.default(tiny_model) == Sampling()


def test_a_folder_or_pipeline_of_the_built_in_model_is_an_open_world() -> None:
    folder = open_model(emoji.HERE / "weights")
    assert folder.hash == open_model("emoji").hash
    assert folder.world is open_model(open_model("emoji").pipeline()).world is None
