"""Anchor prompts by a tiny causal language model of a real class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import BadInput, Concept, Model
from efface.methods.trained.ablate.prompts import generated_captions, lines, question

CPU = torch.device("cpu")
STYLE, DOG = Concept(name="monet", kind="style"), Concept(name="cat", guide="dog")


@pytest.fixture
def language_model(tiny_sd: Path, tmp_path: Path) -> Callable[..., str]:
    """Writes a GPT-2 with random weights, or one that says hardly anything but one word."""

    def write(word: str = "", room: int = 12) -> str:
        from transformers import CLIPTokenizer, GPT2Config, GPT2LMHeadModel

        tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
        longest = max(len(tokenizer(question(concept, 4) + "\n")["input_ids"]) for concept in (STYLE, DOG))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(tokenizer), n_positions=longest + room, n_embd=32, n_layer=1, n_head=2,
                    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                )
            )  # fmt: skip
        if word:
            reported = torch.randn(32, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                network.transformer.ln_f.weight.mul_(0.1)
                network.transformer.ln_f.bias.copy_(reported)
                network.transformer.wte.weight[tokenizer.convert_tokens_to_ids(f"{word}</w>")] = reported
        network.save_pretrained(tmp_path / "lm")
        tokenizer.save_pretrained(tmp_path / "lm")
        return str(tmp_path / "lm")

    return write


def test_captions_are_those_that_the_model_writes_and_are_kept(language_model: Callable[..., str]) -> None:
    weights = language_model()
    found = generated_captions(STYLE, weights, 3, 0, CPU)
    assert len(found) == len(set(found)) == 3
    assert all(found)
    other = generated_captions(STYLE, weights, 3, 1, CPU)
    assert other != found
    for path in Path(weights).glob("tokenizer*"):  # it cannot be asked again
        path.unlink()
    assert generated_captions(STYLE, weights, 3, 0, CPU) == found
    with pytest.raises(BadInput, match="causal language model"):
        generated_captions(STYLE, f"{weights}-gone", 3, 0, CPU)


def test_captions_are_kept_for_a_folders_model_and_not_for_its_name(
    language_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = generated_captions(STYLE, language_model(), 3, 0, CPU)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm" / "tokenizer.json").rename(tmp_path / "tokenizer.json")  # it cannot be asked again
    assert generated_captions(STYLE, "lm", 3, 0, CPU) == found
    assert generated_captions(STYLE, "../" + tmp_path.name + "/lm", 3, 0, CPU) == found
    assert generated_captions(STYLE, language_model("house"), 3, 0, CPU) != found


def test_fewer_captions_than_asked_for_are_not_kept(
    language_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    weights = language_model("dog", room=2)
    assert 0 < len(generated_captions(DOG, weights, 90, 0, CPU)) < 90
    assert not (tmp_path / "cache").exists()
    assert len(generated_captions(DOG, weights, 1, 0, CPU)) == 1
    assert len(list((tmp_path / "cache" / "captions").glob("*.json"))) == 1


def test_an_objects_captions_name_its_anchor(tiny_model: Model, language_model: Callable[..., str]) -> None:
    weights = language_model("dog")
    state = torch.random.get_rng_state()
    found = generated_captions(DOG, weights, 4, 0, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found
    assert all("dog" in caption for caption in found)
    options: dict[str, Any] = {"train_max_steps": 1, "batch_size": 1, "sampling_steps": 1, "num_class_prompts": 4}
    eraser = efface.erase(tiny_model, "cat", "dog", method="ablate", prompt_gen_model=weights, **options)
    assert eraser.provenance["ablated"]["cat"]["anchors"] == found


def test_a_model_that_names_no_anchor_or_reads_too_little_is_refused(language_model: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match="no caption with 'dog' in it") as caught:
        generated_captions(DOG, language_model("horse", room=2), 4, 0, CPU)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="too short"):
        generated_captions(DOG, language_model(room=-10), 4, 0, CPU)


def test_numbers_and_quotation_marks_are_no_part_of_a_caption() -> None:
    answer = '1. A dog in a garden.\n\n 2) "Two dogs"\n- a dog\n• 3 dogs\nthe dog of 1900'
    assert lines(answer) == ["A dog in a garden.", "Two dogs", "a dog", "3 dogs", "the dog of 1900"]


def test_what_is_asked_names_the_anchor_or_the_caption() -> None:
    assert "dog" in question(DOG, 7)
    assert "7" in question(DOG, 7)
    assert "painting" in question(STYLE, 7)
    assert "the lady" in question(Concept(name="the lady", kind="memorised"), 7)
    assert "person" in question(Concept(name="weapons", kind="unsafe"), 7)
