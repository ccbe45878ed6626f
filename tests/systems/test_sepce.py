"""CiE and SepCE: their commands and files, with the effect that their documentation states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import Efface
from efface import Eraser, open_model
from support import low_rank_changes

QUICK = ("-s", "iter_break=2", "-s", "images=2", "-s", "sampling_steps=2")


def pixels(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]


def test_s2_one_weight_term_per_concept(efface: Efface, tiny_sd: Path):
    command = ("erase", "cat", "dog", "--method", "sepce", "--model", tiny_sd, *QUICK, "-o", "both.safetensors")
    assert efface(*command).code == 0
    assert efface("compose", "both.safetensors", "--without", "dog", "-o", "one.safetensors").code == 0
    concept_dog, concept_cat = open_model(tiny_sd).embed(["dog", "cat"]).tokens
    changes = low_rank_changes(Eraser.load("one.safetensors")).values()
    size = max(float(change.norm()) for change in changes)
    assert size > 0
    for change in changes:  # the term of "cat" has no effect on "dog"
        assert float((concept_dog @ change.T).norm()) <= 1e-4 * size
    assert any(float((concept_cat @ change.T).norm()) > 1e-2 * size for change in changes)


def test_s6_checkpoints_in_three_formats(efface: Efface, tiny_sd: Path):
    command = ("--method", "cie", "--model", tiny_sd, *QUICK, "-s", "lr=1e-3", "-o", "cat.safetensors")
    assert efface("erase", "cat", *command).code == 0
    prompt = ("generate", "a cat", "-n", 2, "--steps", 3)
    assert efface(*prompt, "--model", tiny_sd, "-o", "before").code == 0
    assert efface(*prompt, "--model", tiny_sd, "--eraser", "cat.safetensors", "-o", "edited").code == 0
    for name, path in (("diffusers", "folder"), ("esd", "unet.pt"), ("single-file", "whole.safetensors")):
        export = ("export", "cat.safetensors", "--format", name, "--model", tiny_sd, "-o", path)
        assert efface(*export).code == 0, name
    state = torch.load("unet.pt", weights_only=True)
    assert open_model(tiny_sd).denoiser.load_state_dict(state).missing_keys == []
    assert efface(*prompt, "--model", "folder", "-o", "from-folder").code == 0
    assert efface(*prompt, "--model", tiny_sd, "--eraser", "unet.pt", "-o", "from-unet").code == 0
    assert efface(*prompt, "--model", tiny_sd, "--eraser", "whole.safetensors", "-o", "from-file").code == 0
    assert pixels("edited") == pixels("from-folder") == pixels("from-unet") == pixels("from-file") != pixels("before")


def test_s6_averaged_weights_of_an_edited_checkpoint(efface: Efface, refused: Callable[..., str], tiny_sd: Path):
    from efface.models.storage import compvis

    model = open_model(tiny_sd)
    state: dict[str, torch.Tensor] = {}
    for index, (name, weight) in enumerate(model.weights("denoiser")):
        named = compvis.unet_name(name, model.denoiser.config)
        state[compvis.DENOISER + named] = weight
        changed = weight + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
        state[compvis.ema_name(named)] = changed if "attn2" in name else weight
    torch.save({"state_dict": state}, "edited.ckpt")
    command = ("generate", "a cat", "--steps", 3, "--model", tiny_sd)
    assert "changes nothing" in refused(*command, "--eraser", "edited.ckpt")
    assert efface(*command, "-o", "before").code == 0
    assert efface(*command, "--eraser", "edited.ckpt#ema", "-o", "after").code == 0
    assert pixels("before") != pixels("after")


ARTISTS = "case_number,prompt,evaluation_seed\n12,a painting of a cat by van gogh,7\n13,a house by picasso,8\n"
ART = ",prompt,evaluation_seed,artist\n0,a car by picasso,21,picasso\n"


@pytest.mark.parametrize(
    ("content", "prompts", "seeds"),
    [
        (ARTISTS, ["a painting of a cat by van gogh", "a house by picasso"], [7, 8, 8, 9]),
        (ART, ["a car by picasso"], [21, 22]),
    ],
)
def test_s8_csv_files_are_read_without_conversion(
    efface: Efface, tiny_sd: Path, content: str, prompts: list[str], seeds: list[int]
):
    Path("prompts.csv").write_text(content)
    command = ("generate", "--prompts", "prompts.csv", "-n", 2, "--steps", 1, "--model", tiny_sd, "-o", "images")
    assert efface(*command).code == 0
    rows = [json.loads(line) for line in Path("images/metadata.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(row["prompt"] for row in rows)) == prompts
    assert sorted(row["seed"] for row in rows) == seeds
    assert len(pixels("images")) == 2 * len(prompts)


def test_s1_a_concept_is_erased_at_the_default_settings(forgets_at_defaults: Callable[..., None]):
    forgets_at_defaults("cie", "church")
