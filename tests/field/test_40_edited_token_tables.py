"""Searches for tokens read the token table of the edited model, whose rows an eraser may edit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Eraser, Model, WeightEdit
from efface.attacks import Target
from efface.attacks.denoising import Denoising
from efface.attacks.inversion import InversionConfig, search
from efface.attacks.projected import ProjectedTokens
from efface.attacks.soft_prompt import SoftPrompt, edited_table
from efface.attacks.unlearndiff import UnlearnDiffConfig, _Descent
from efface.tools import latents_of
from support import Trial


def row_of(model: Model, word: str) -> int:
    return int(model.tokenizer([word])["input_ids"][0][1])


def token_eraser(model: Model, words: tuple[str, ...], scale: float) -> Eraser:
    """An eraser that moves rows of the token table far away."""
    encoder: Any = model.text_encoder
    weight = encoder.get_input_embeddings().weight
    (name,) = [name for name, parameter in encoder.named_parameters() if parameter is weight]
    up = torch.zeros(len(weight), len(words))
    up[[row_of(model, word) for word in words], range(len(words))] = 1
    edit = WeightEdit(f"text_encoder.{name}", up=up, down=scale * torch.ones(len(words), model.width))
    return replace(efface.erase(model, "cat", "dog"), edits=(edit,))


def target(model: Model, eraser: Eraser) -> Target:
    return Target(model, eraser, "cat", ("a red cat",), range(5, 9), latents_of(model))


@pytest.mark.parametrize(("words", "scale"), [(("cat",), 3.0), (("cat", "dog", "horse"), -2.0), (("blue",), 0.5)])
def test_the_table_is_that_of_the_edited_model(tiny_model: Model, words: tuple[str, ...], scale: float) -> None:
    encoder: Any = tiny_model.text_encoder
    plain: Tensor = encoder.get_input_embeddings().weight.detach().clone()
    eraser = token_eraser(tiny_model, words, scale)
    expected = plain.clone()
    expected[[row_of(tiny_model, word) for word in words]] += scale
    aim = target(tiny_model, eraser)
    torch.testing.assert_close(edited_table(aim), expected)
    descent = _Descent(aim, UnlearnDiffConfig(k=1, iterations=1), Denoising(aim))
    torch.testing.assert_close(descent._table, expected)
    tokens = ProjectedTokens(aim, 1, lambda some: torch.optim.SGD(some, lr=1.0), torch.Generator().manual_seed(0))
    chosen = row_of(tiny_model, words[0])
    torch.testing.assert_close(tokens.nearest([chosen]).detach(), expected[[chosen]])
    assert torch.equal(encoder.get_input_embeddings().weight, plain)


def test_inversion_starts_at_the_edited_row(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    aim, seen = target(tiny_model, token_eraser(tiny_model, ("dog", "horse"), 3.0)), list[Tensor]()
    encode = SoftPrompt.encode

    def recorded(self: SoftPrompt, chosen: Sequence[int], embeddings: Tensor) -> Tensor:
        seen.append(embeddings.detach().clone())
        return encode(self, chosen, embeddings)

    monkeypatch.setattr(SoftPrompt, "encode", recorded)
    search(aim, InversionConfig(steps=1, batch_size=1, images=1, checks=1, initializer_token="dog"), Trial())
    torch.testing.assert_close(seen[0], edited_table(aim)[[row_of(tiny_model, "dog")]])
