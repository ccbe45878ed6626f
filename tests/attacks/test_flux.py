"""Attacks on a flow transformer: soft tokens of T5, whose prompts have no start token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import efface
from efface import open_model
from efface.attacks import ATTACKS
from efface.attacks.soft_prompt import SoftPrompt
from efface.models.text.encoding import token_table
from efface.models.text.tokens import token_ids

Tiny = Callable[..., Any]


def test_a_soft_prompt_with_the_rows_of_words_is_the_prompt_with_these_words(tiny: Tiny) -> None:
    model = open_model(tiny("flux"))
    (ids,), _ = token_ids(model.tokenizer, ["red cat"], model.max_tokens, False)
    red = int(ids[0])
    soft = SoftPrompt(model, "cat", 1, "prefix_k")
    assert torch.equal(soft.ids([red])[0], ids)
    assert soft.text([red]) == "red cat"
    found = soft.encode([red], token_table(model.text_encoder).weight.detach()[[red]])
    expected = model.denoiser_text(model.embed(["red cat"]))
    torch.testing.assert_close(found, expected)
    # The pooled vector is in the last row.
    assert found.shape[1] == model.max_tokens + 1
    assert torch.equal(found[0, -1, : model.reading("pooled").width], model.pooled(["red cat"])[0])  # pyright: ignore[reportOptionalSubscript]


def test_gradients_reach_the_soft_tokens_through_the_transformer(tiny: Tiny) -> None:
    from efface.models.denoising import Conditions

    model = open_model(tiny("flux"))
    row = token_table(model.text_encoder).weight.detach()[[3]].clone().requires_grad_()
    text = SoftPrompt(model, "cat", 1, "prefix_k").encode([3], row)
    model.predict(torch.ones(1, 4, 4, 4), torch.tensor([500]), Conditions(text)).square().sum().backward()
    assert row.grad is not None
    assert row.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["unlearndiff", "p4d_prefix", "p4d_n", "p4d_k", "inversion", "embedding_shift"])
def test_an_attack_is_for_flux_unless_its_guidance_is_distilled(tiny: Tiny, name: str) -> None:
    model = open_model(tiny("flux"))
    attack = ATTACKS.get(name)
    assert attack.unfit(model, efface.erase(model, "cat", to="dog")) is None
    assert ATTACKS.get("ring_a_bell").unfit(model) is not None
    assert attack.unfit(open_model(tiny("sd3"))) is not None
