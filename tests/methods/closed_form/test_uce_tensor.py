"""UCE's technique `tensor` against the 2023 script's lines, written out layer by layer and pair by pair."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model
from support import low_rank_changes

PAIRS = [("cat", "dog"), ("golf ball", "a red car in the house"), ("van gogh", "")]


def script_of_2023(
    model: Model, weight: Tensor, pairs: Sequence[tuple[str, str]], preserve: Sequence[str], a: float, b: float
) -> Tensor:
    left, right = 0.5 * weight, 0.5 * torch.eye(weight.shape[1], dtype=torch.float64)
    for old, new in pairs:
        both = model.embed([old, new])
        tokens, (start, guide) = both.tokens.double(), both.last.tolist()
        window = model.max_tokens - max(start, guide)
        c, g = tokens[0, start : start + window].T, tokens[1, guide : guide + window].T
        values = weight @ c
        unit = values / values.norm()
        aim = weight @ g
        target = aim - (unit * aim).sum() * unit
        left = left + a * target @ c.T
        right = right + a * c @ c.T
    for tokens in model.embed(["", *preserve]).tokens.double():
        left = left + b * weight @ tokens.T @ tokens
        right = right + b * tokens.T @ tokens
    return left @ torch.linalg.inv(right)


def erase(model: Model, pairs: Sequence[tuple[str, str]], preserve: Sequence[str] = ()) -> Eraser:
    old, new = zip(*pairs, strict=True)
    return efface.erase(model, old, new, preserve=preserve, variant="window", technique="tensor")


@pytest.mark.parametrize("preserve", [[], ["a horse", "blue bird"]])
def test_it_is_the_published_script(tiny_model: Model, preserve: list[str]) -> None:
    eraser = erase(tiny_model, PAIRS, preserve)
    assert eraser.kind_of_edit == "weight"
    found = low_rank_changes(eraser)
    assert found.keys() == set(tiny_model.text_parameters())
    for name, weight in tiny_model.text_weights():
        wide = weight.detach().double()
        expected = script_of_2023(tiny_model, wide, PAIRS, preserve, 1.0, 1 / (1 + len(preserve))) - wide
        assert float((found[name] - expected).norm() / expected.norm()) < 1e-8


def test_restoring_a_concept_is_erasing_the_others(tiny_model: Model, tmp_path: Path) -> None:
    direct = low_rank_changes(erase(tiny_model, [PAIRS[0], PAIRS[2]], ["a horse"]))
    whole = erase(tiny_model, PAIRS, ["a horse"])
    whole.save(tmp_path / "eraser.safetensors")
    for source in (whole, Eraser.load(tmp_path / "eraser.safetensors")):
        rest = low_rank_changes(source.without("golf ball"))
        for name, change in direct.items():
            torch.testing.assert_close(rest[name], change, rtol=0, atol=1e-10)


def test_it_is_of_the_2023_code_only(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="variant=window"):
        efface.erase(tiny_model, "cat", "dog", technique="tensor")
