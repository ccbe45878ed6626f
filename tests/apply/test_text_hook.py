"""The hook in front of other denoisers than U-Nets, and beside diffusers' caches."""

from typing import Any

import pytest
import torch
from torch import Tensor

from efface import TextEdit
from efface.apply.text_hook import TextHook, forget_text

TEXT_WIDTH = 16
STREAMS = {"text": "encoder_hidden_states"}


@pytest.fixture
def denoiser() -> Any:
    """A tiny transformer of the family that diffusers can cache the text's keys and values of."""
    from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoEImageTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NucleusMoEImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            patch_size=1,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 2, 2),
            moe_enabled=False,
            capacity_factors=[8.0, 8.0],
        ).eval()


@pytest.fixture
def edit() -> TextEdit:
    generator = torch.Generator().manual_seed(1)
    return TextEdit(torch.randn(TEXT_WIDTH, 2, generator=generator), torch.randn(TEXT_WIDTH, 2, generator=generator))


@torch.no_grad()
def predict(denoiser: Any, text: Tensor) -> Tensor:
    latents = torch.randn(len(text), 4, 4, generator=torch.Generator().manual_seed(0))
    return denoiser(
        hidden_states=latents,
        timestep=torch.full((len(text),), 0.5),
        encoder_hidden_states=text,
        encoder_hidden_states_mask=torch.ones(text.shape[:2], dtype=torch.bool),
        img_shapes=[(1, 2, 2)] * len(text),
        return_dict=False,
    )[0]


@torch.inference_mode()
def run(denoiser: Any, prompts: list[Tensor], steps: int = 3) -> list[Tensor]:
    """As a pipeline with guidance in calls of its own: the same two texts in turn, step after step."""
    made = [predict(denoiser, text) for _ in range(steps) for text in prompts]
    forget_text(denoiser)  # as pipelines do when they are done
    return made


def test_a_transformers_text_is_edited(denoiser: Any, edit: TextEdit) -> None:
    text = torch.randn(2, 5, TEXT_WIDTH)
    plain, expected = predict(denoiser, text), predict(denoiser, edit(text))
    hook = TextHook(denoiser, STREAMS, [[edit]])
    hook.set(1.0)
    torch.testing.assert_close(predict(denoiser, text), expected, rtol=1e-5, atol=1e-6)
    hook.remove()
    assert torch.equal(predict(denoiser, text), plain)


def test_cached_keys_and_values_are_those_of_the_edited_text(denoiser: Any, edit: TextEdit) -> None:
    """The cache knows a text by its place in memory, and edited copies that come and go would share one."""
    from diffusers import TextKVCacheConfig  # pyright: ignore[reportPrivateImportUsage]

    texts = [torch.randn(1, 5, TEXT_WIDTH) for _ in range(2)]
    half = TextEdit(0.5 * edit.left, edit.right)
    plain, full, less = ([*map(operator, texts)] for operator in (lambda text: text, edit, half))
    expected = [run(denoiser, some) for some in (plain, full, less)]
    assert not torch.equal(expected[0][0], expected[1][0])
    denoiser.enable_cache(TextKVCacheConfig())
    run(denoiser, texts)
    hook = TextHook(denoiser, STREAMS, [[edit]])
    for strength, wanted in ((1.0, expected[1]), (0.5, expected[2]), (0.0, expected[0])):
        hook.set(strength)
        torch.testing.assert_close(run(denoiser, texts), wanted, rtol=1e-5, atol=1e-6)
    assert len(hook._cache) == len(texts)
    del texts[0], plain[0]
    assert len(hook._cache) == 1, "an unused text is still cached"
    hook.remove()
