"""A prompt with free tokens against the model's own reading of it."""

import pytest
import torch

from efface.attacks.soft_prompt import Place, SoftPrompt, allowed
from efface.errors import BadRequest
from efface.models import Model
from efface.models.text.encoding import token_table

PROMPT = "a picture of a cat"


def word(model: Model, text: str) -> int:
    (_, token, _) = model.tokenizer(text)["input_ids"]
    return token


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("prefix_k", "red dog a picture of a cat"),
        ("suffix_k", "a picture of a cat red dog"),
        ("mid_k", "a picture red dog of a cat"),
        ("insert_k", "a red picture dog of a cat"),
    ],
)
def test_free_tokens_stand_where_they_are_asked_for(tiny_model: Model, place: Place, text: str) -> None:
    soft = SoftPrompt(tiny_model, PROMPT, 2, place)
    chosen = [word(tiny_model, "red"), word(tiny_model, "dog")]
    assert soft.text(chosen) == text
    ids = soft.ids(chosen)
    read: list[int] = tiny_model.tokenizer([text], padding="max_length", max_length=tiny_model.max_tokens)["input_ids"]
    assert ids.tolist() == read
    assert ids[0, soft.free].tolist() == chosen


def table(model: Model) -> torch.Tensor:
    return token_table(model.text_encoder).weight.detach()


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_the_embeddings_of_words_are_read_as_these_words(tiny_model: Model, clip_skip: int | None) -> None:
    soft = SoftPrompt(tiny_model, PROMPT, 2, "prefix_k", clip_skip)
    chosen = [word(tiny_model, "red"), word(tiny_model, "dog")]
    found = soft.encode([word(tiny_model, "blue")] * 2, table(tiny_model)[chosen])
    expected = tiny_model.embed([soft.text(chosen)], clip_skip=clip_skip).tokens
    torch.testing.assert_close(found, expected)


def test_the_encoder_is_left_as_it_was(tiny_model: Model) -> None:
    before = tiny_model.text_encoder(soft_ids := SoftPrompt(tiny_model, PROMPT, 1, "mid_k").ids([5]))[0]
    SoftPrompt(tiny_model, PROMPT, 1, "mid_k").encode([5], torch.ones(1, tiny_model.width))
    assert torch.equal(tiny_model.text_encoder(soft_ids)[0], before)


def test_gradients_are_those_of_finite_differences(tiny_model: Model) -> None:
    soft = SoftPrompt(tiny_model, PROMPT, 1, "prefix_k")
    embeddings = table(tiny_model)[[5]].clone().requires_grad_()
    weights = torch.randn(tiny_model.embed([PROMPT]).tokens.shape, generator=torch.Generator().manual_seed(0))

    def value(rows: torch.Tensor) -> torch.Tensor:
        return (soft.encode([5], rows) * weights).double().sum()

    (gradient,) = torch.autograd.grad(value(embeddings), [embeddings])
    step = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    with torch.no_grad():
        slope = (value(embeddings + step) - value(embeddings - step)) / 2
    torch.testing.assert_close(float(slope), float((gradient * step).sum()), rtol=2e-2, atol=1e-3)


def test_no_token_that_ends_a_prompt_is_allowed(tiny_model: Model) -> None:
    free = allowed(tiny_model)
    ids = tiny_model.tokenizer([""], padding="max_length", max_length=tiny_model.max_tokens)["input_ids"][0]
    assert not free[ids].any()
    assert free.sum() > len(free) - 4


def test_a_prompt_without_room_is_refused(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="no room for 3 more tokens"):
        SoftPrompt(tiny_model, " ".join(["cat"] * (tiny_model.max_tokens - 3)), 3, "prefix_k")
