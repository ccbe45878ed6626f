import json
from pathlib import Path

import pytest

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
    assert catalogue.objects[0] == emoji.EmojiObject("cat", ("kitten",), ("feline",), ("tiger",), "dog")
    assert catalogue.objects[1] == emoji.EmojiObject("bomb", theme="weapon")
    assert catalogue.styles == (emoji.EmojiStyle("flat", ("plain",), "3d"),)
    assert (catalogue.held_out_cells, catalogue.memorised) == ((("cat", "flat"),), "a caption")
