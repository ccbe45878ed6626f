"""Details that the references do in their way, and names in two Unicode forms."""

import unicodedata
from typing import Any

import pytest
import torch

import efface
from efface import BadRequest, Concept, Model, Request
from efface.attacks import Target
from efface.attacks.inversion import InversionConfig, search
from efface.attacks.soft_prompt import SoftPrompt
from efface.methods.closed_form.tokens import OBJECT_TEMPLATES, STYLE_TEMPLATES
from efface.request.names import plain_words
from efface.tools import latents_of
from support import Trial


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("prompt", ["a red cat", "a bird in the art of an artist"])
def test_insert_k_spaces_the_tokens_as_the_reference_does(tiny_model: Model, prompt: str, k: int) -> None:
    words = list(range(len(tiny_model.tokenizer([prompt])["input_ids"][0]) - 2))
    if len(words) + k + 2 > tiny_model.max_tokens:
        pytest.skip("no room")
    each, expected = len(words) // (k + 1), list[int]()
    for slot in range(k):
        expected += [*words[each * slot : each * (slot + 1)], -1]
    expected += words[each * k :]
    soft = SoftPrompt(tiny_model, prompt, k, "insert_k")
    assert [place - 1 for place in soft.free] == [place for place, word in enumerate(expected) if word == -1]


@pytest.mark.parametrize("name", ["café", "Ångström", "Dvořák", "한국"])
def test_two_unicode_forms_are_one_name(tiny_model: Model, name: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != decomposed
    with pytest.raises(BadRequest, match="occurs twice"):
        Request.make([composed, decomposed])
    with pytest.raises(BadRequest, match="both erased and preserved"):
        Request.make(composed, preserve=[decomposed])
    with pytest.raises(BadRequest, match="is the concept itself"):
        Request.make(composed, decomposed)
    assert Concept(name=decomposed, aliases=(decomposed,)) == Concept(name=composed, aliases=(composed,))
    request = Request.make([decomposed, "cat"])
    assert request.keeping([decomposed]).names == request.keeping([composed]).names == (composed,)
    assert plain_words(composed) == plain_words(decomposed)


def test_a_concept_in_another_form_is_restored(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, ["cafe\u0301", "cat"], "dog")
    assert eraser.without("caf\u00e9").concepts == eraser.without("CAFE\u0301").concepts == ("cat",)


@pytest.mark.parametrize(
    ("learnable", "expected"),
    [("object", OBJECT_TEMPLATES), ("style", STYLE_TEMPLATES), ("prompts", ("a red {}", "{}"))],
)
def test_inversion_trains_on_templates_where_the_setting_asks_for_them(
    tiny_model: Model, learnable: Any, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog")
    aim = Target(tiny_model, eraser, "cat", ("a red cat", "cat"), range(5, 8), latents_of(tiny_model))
    texts: list[str] = []
    encode = SoftPrompt.encode

    def recorded(self: SoftPrompt, chosen: Any, embeddings: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            texts.append(self.text([int(tiny_model.tokenizer(["star"])["input_ids"][0][1])]))
        return encode(self, chosen, embeddings)

    monkeypatch.setattr(SoftPrompt, "encode", recorded)
    config = InversionConfig(
        steps=len(expected), batch_size=1, images=1, checks=1, initializer_token="dog", learnable_property=learnable
    )
    search(aim, config, Trial())
    assert texts == [template.format("star") for template in expected]
