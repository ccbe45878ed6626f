"""Cached tokens of words are used only for the text encoder that they were computed by."""

from pathlib import Path
from typing import Any

import pytest
import torch

from efface import Model, open_model
from efface.models import tensor_cache as module
from efface.models.tensor_cache import word_tokens

WORDS = ["cat", "dog", "house", "golf", "ball"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_MIN_WORDS", 1)
    monkeypatch.setattr(module, "_PROBES", 2)


def embedded(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of prompts that are embedded."""
    seen: list[int] = []
    plain: Any = type(model).last_tokens

    def last_tokens(self: Model, prompts: list[str], **options: Any) -> torch.Tensor:
        seen.append(len(prompts))
        return plain(self, prompts, **options)

    monkeypatch.setattr(type(model), "last_tokens", last_tokens)
    return seen


def test_they_are_embedded_once_for_each_depth(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_model(tiny_sd).last_tokens(WORDS)
    first = word_tokens(open_model(tiny_sd), WORDS, None)
    assert torch.equal(first, expected)
    model = open_model(tiny_sd)
    seen = embedded(model, monkeypatch)
    assert torch.equal(word_tokens(model, WORDS, None), expected)
    assert seen == [2]  # the probes
    assert not torch.equal(word_tokens(model, WORDS, 1), expected)
    assert seen == [2, 2, 5]


def test_a_text_encoder_that_was_changed_in_memory_is_asked_itself(tiny_sd: Path) -> None:
    word_tokens(open_model(tiny_sd), WORDS, None)
    changed = open_model(tiny_sd)
    encoder: Any = changed.text_encoder
    with torch.no_grad():
        encoder.final_layer_norm.bias.add_(1)
    assert torch.equal(word_tokens(changed, WORDS, None), changed.last_tokens(WORDS))


def test_a_damaged_cache_is_made_again(tiny_sd: Path, tmp_path: Path) -> None:
    first = word_tokens(open_model(tiny_sd), WORDS, None)
    (stored,) = (tmp_path / "cache" / "words").glob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:200])
    assert torch.equal(word_tokens(open_model(tiny_sd), WORDS, None), first)
