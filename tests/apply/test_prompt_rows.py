"""The prompt of each row, from what a pipeline does to a batch: every layout that diffusers makes, or a refusal."""

from itertools import product

import pytest
import torch
from torch import Tensor

from efface.apply.prompt_rows import prompt_of_row
from efface.errors import BadInput


def batch(prompts: int, images: int, branches: int, same: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, text and the true owners, as a pipeline lays them out; `same`: all prompts are in the same words."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(prompts * images, 4, 2, 2, generator=generator)
    texts = [torch.randn(1 if same else prompts, 3, 5, generator=generator) for _ in range(branches)]
    repeated = [text.expand(prompts, 3, 5).repeat_interleave(images, dim=0) for text in texts]
    true = torch.tensor([prompt for _ in range(branches) for prompt in range(prompts) for _ in range(images)])
    return torch.cat([latents] * branches), torch.cat(repeated), true


@pytest.mark.parametrize(("prompts", "images", "branches"), list(product((2, 3, 4), (1, 2, 3), (1, 2, 3))))
def test_every_layout_is_found_out(prompts: int, images: int, branches: int) -> None:
    latents, text, true = batch(prompts, images, branches)
    assert torch.equal(prompt_of_row(prompts, latents, text, None, None), true)
    assert torch.equal(prompt_of_row(prompts, latents, text, images, None), true)


def test_equal_negative_prompts_tell_nothing_and_need_not() -> None:
    latents, text, true = batch(3, 2, 2)
    text[:6] = text[0]
    assert torch.equal(prompt_of_row(3, latents, text, None, None), true)


def test_what_can_be_meant_either_way_is_refused_or_told() -> None:
    """Two requests in the same words, guided, look like two images a prompt, unguided, from the same latents."""
    latents, text, true = batch(2, 1, 2, same=True)
    with pytest.raises(BadInput, match="images_per_prompt"):
        prompt_of_row(2, latents, text, None, None)
    assert torch.equal(prompt_of_row(2, latents, text, 1, None), true)
    assert torch.equal(prompt_of_row(2, latents, text, None, True), true)
    assert prompt_of_row(2, latents, text, 2, None).tolist() == [0, 0, 1, 1]
    assert prompt_of_row(2, latents, text, None, False).tolist() == [0, 0, 1, 1]


def test_guidance_that_runs_in_calls_of_its_own_is_seen_through() -> None:
    """Its rows repeat no latents, so they are images."""
    latents, text, true = batch(2, 2, 1)
    assert torch.equal(prompt_of_row(2, latents, text, None, True), true)


@pytest.mark.parametrize(("prompts", "images"), [(3, None), (2, 3), (5, None)])
def test_a_batch_that_does_not_divide_is_refused(prompts: int, images: int | None) -> None:
    latents, text, _ = batch(2, 2, 1)
    with pytest.raises(BadInput, match="4 rows") as caught:
        prompt_of_row(prompts, latents, text, images, None)
    assert "\n" not in str(caught.value)


def test_rows_in_another_order_are_refused() -> None:
    latents, text, _ = batch(2, 2, 2)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # branches side by side
    with pytest.raises(BadInput, match="do not repeat"):
        prompt_of_row(2, latents[order], text[order], None, None)
