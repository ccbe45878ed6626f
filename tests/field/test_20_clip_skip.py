"""`efface erase --clip-skip N` makes an eraser for pipelines that skip layers of the text encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch

from efface import Eraser, Request, open_model


@pytest.mark.parametrize("skip", [0, 1])
def test_the_option_sets_the_layer_that_the_eraser_is_made_for(efface: Any, tiny_sd: Path, skip: int) -> None:
    assert efface("erase", "cat", "--to", "dog", "--clip-skip", skip, "-m", tiny_sd, "-o", "x.safetensors").code == 0
    eraser = Eraser.load("x.safetensors")
    assert eraser.request.clip_skip == skip
    expected = open_model(tiny_sd).embed(eraser.base.probes, clip_skip=skip).last_tokens
    torch.testing.assert_close(eraser.base.embeddings, expected)


def test_it_overrides_a_configuration(efface: Any, tiny_sd: Path) -> None:
    Request.make("cat", "dog", clip_skip=0).to_yaml("request.yaml")
    efface("erase", "--config", "request.yaml", "--clip-skip", 1, "-m", tiny_sd, "-o", "x.safetensors")
    assert Eraser.load("x.safetensors").request.clip_skip == 1


def test_mistakes_are_one_line(refused: Any, tiny_sd: Path) -> None:
    assert "12" in refused("erase", "cat", "--clip-skip", 12, "-m", tiny_sd)
    assert "clip-skip" in refused("erase", "cat", "--clip-skip", -1, "-m", tiny_sd)
