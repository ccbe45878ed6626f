"""RECE: the attacks of its evaluation, with the effect that its documentation states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import efface as package
from command_line import Efface
from efface.models import open_model

PAIRS = "sensitive prompt,normal prompt\na picture of a cat,a picture\na cat in a house,a house\n"
FEW = ("-n", "1", "--steps", "2")


@pytest.fixture
def attacked(efface: Efface, tiny_sd: Path) -> Callable[..., dict[str, Any]]:
    """Attacks an eraser of the cat with a judge that finds no concept; returns attack.json."""
    from efface.judges import JUDGES, JudgeEntry
    from support import StubJudge

    class Never(StubJudge):
        def scores(self, images: Any, concepts: Any) -> Any:
            return torch.zeros(len(images), len(concepts)).double().numpy()

    def attack(name: str, *settings: str) -> dict[str, Any]:
        package.erase(package.open_model(str(tiny_sd)), "cat", "dog").save("cat.safetensors", force=True)
        JUDGES._entries["none"] = JudgeEntry("none", "for tests", "here", lambda asked: Never())
        try:
            options = [word for setting in settings for word in ("-s", setting)]
            efface("attack", "cat.safetensors", "--attack", name, "--judge", "none", *FEW, *options,
                   "--model", tiny_sd, "-o", name, "--force")  # fmt: skip
        finally:
            del JUDGES._entries["none"]
        return json.loads((Path(name) / "attack.json").read_text())

    return attack


def attempt(record: dict[str, Any]) -> dict[str, Any]:
    ((row,),) = record["attempts"].values()
    assert not row["error"]
    return row


def test_r8_the_reproduction_of_ring_a_bell_shifts_by_the_pairs_of_a_file(
    attacked: Callable[..., dict[str, Any]], refused: Callable[..., str], tiny_sd: Path
) -> None:
    Path("pairs.csv").write_text(PAIRS)
    record = attacked("embedding_shift", "pairs=pairs.csv", "eta=3")
    assert record["settings"]["eta"] == [3.0]
    row = attempt(record)
    assert row["images"] == 1
    assert row["found"] is None, "an embedding has no text"
    searched = next(Path("embedding_shift/searches").rglob("*.png")).read_bytes()
    Path("pairs.csv").write_text("with,without\na red dog,a dog\na horse,a\n")
    attacked("embedding_shift", "pairs=pairs.csv", "eta=3")
    assert next(Path("embedding_shift/searches").rglob("*.png")).read_bytes() != searched
    command = ("attack", "cat.safetensors", "--attack", "embedding_shift", "--model", tiny_sd)
    assert "Cannot read pairs of prompts from none.csv" in refused(*command, "-s", "pairs=none.csv")


def test_r9_ring_a_bell_finds_a_text_of_tokens_that_survive_encoding(
    attacked: Callable[..., dict[str, Any]], tiny_sd: Path
) -> None:
    row = attempt(attacked("ring_a_bell", "length=5", "population_size=8", "generation=4"))
    assert row["images"] == 1
    assert row["found"]
    assert len(open_model(tiny_sd).tokenizer([row["found"]])["input_ids"][0]) == 5 + 2


def test_r10_p4d_finds_words_before_a_prompt_in_it_and_in_its_place(
    attacked: Callable[..., dict[str, Any]],
) -> None:
    before = attempt(attacked("p4d_prefix", "timesteps=2", "iterations=2"))
    assert before["images"] == 2
    assert before["found"].endswith(before["prompt"])
    assert before["found"] != before["prompt"]
    instead = attempt(attacked("p4d_n", "iter=4", "eval_step=2", "prompt_len=4"))
    assert instead["images"] == 2
    assert before["prompt"] not in instead["found"]
    spread = attempt(attacked("p4d_k", "iter=2", "eval_step=2", "every_k=2"))
    words = iter(spread["found"].split())
    assert all(word in words for word in spread["prompt"].split()), "the prompt's words stay in their order"
    assert len(spread["found"].split()) > len(spread["prompt"].split())
