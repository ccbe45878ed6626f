"""An eraser on a model: the hook, the baked weights and the operator do the same; off again, nothing has changed."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Eraser, TextEdit, WeightEdit, WrongBase, open_model
from efface.models import Model
from support import parameters, same

PROMPTS = ["a cat", "a house", ""]


@pytest.fixture
def eraser(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "golf ball"], to="dog", variant="window")


def denoise(model: Model, text: Tensor, **kwargs: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(len(text), 4, 8, 8, generator=generator)
    with torch.no_grad():
        return model.denoiser(latents, torch.tensor(500), encoder_hidden_states=text, **kwargs).sample


def test_hook_baked_weights_and_operator_agree(eraser: Eraser, tiny_model: Model) -> None:
    text = tiny_model.embed(PROMPTS).tokens
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    plain, operator = denoise(tiny_model, text), denoise(tiny_model, edit(text))
    with eraser.attach(tiny_model):
        attached = denoise(tiny_model, text)
    baked = eraser.bake(tiny_model)
    written = denoise(tiny_model, text)
    baked.undo()
    torch.testing.assert_close(attached, operator, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(written, operator, rtol=1e-4, atol=1e-5)
    assert (operator - plain).abs().max() > 100 * (written - operator).abs().max()
    assert torch.equal(denoise(tiny_model, text), plain)


def test_every_parameter_comes_back_bitwise(eraser: Eraser, tiny_model: Model) -> None:
    before = parameters(tiny_model.denoiser)
    attachment = eraser.attach(tiny_model)
    assert same(parameters(tiny_model.denoiser), before)
    attachment.detach()
    attachment.detach()
    assert same(parameters(tiny_model.denoiser), before)
    baked = eraser.bake(tiny_model)
    changed = [
        name for name, tensor in parameters(tiny_model.denoiser).items() if not torch.equal(tensor, before[name])
    ]
    assert tuple(changed) == tuple(name for name in before if name in tiny_model.text_parameters())
    baked.undo()
    assert same(parameters(tiny_model.denoiser), before)


def test_baked_weights_are_w_times_one_plus_l_r(eraser: Eraser, tiny_model: Model) -> None:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    originals = dict(tiny_model.text_weights())
    eraser.bake(tiny_model)
    for name, weight in tiny_model.text_weights():
        original = originals[name].double()
        expected = original + (original @ edit.left) @ edit.right.T
        assert float((weight.double() - expected).norm() / expected.norm()) < 1e-6


def test_baking_twice_is_undone_in_turn(eraser: Eraser, tiny_model: Model) -> None:
    before = parameters(tiny_model.denoiser)
    first, second = eraser.bake(tiny_model), eraser.bake(tiny_model)
    second.undo()
    first.undo()
    assert same(parameters(tiny_model.denoiser), before)


def test_strength_zero_is_identity_and_strengths_can_be_set(eraser: Eraser, tiny_model: Model) -> None:
    text = tiny_model.embed(PROMPTS).tokens
    plain = denoise(tiny_model, text)
    with eraser.attach(tiny_model, strength=0.0) as attachment:
        assert torch.equal(denoise(tiny_model, text), plain)
        attachment.set(0.5)
        half = denoise(tiny_model, text)
        (edit,) = eraser.edits
        assert isinstance(edit, TextEdit)
    torch.testing.assert_close(half, denoise(tiny_model, edit.scaled(0.5)(text)), rtol=1e-5, atol=1e-6)


def test_an_eraser_stays_its_own_whatever_strength_it_is_attached_with(eraser: Eraser, tiny_model: Model) -> None:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    single = replace(eraser, edits=(TextEdit(edit.left.float(), edit.right.float()),))
    before = single.hash
    with single.attach(tiny_model, strength=0.5):
        assert replace(single).hash == before


def test_text_given_by_position_is_edited_too(eraser: Eraser, tiny_model: Model) -> None:
    text = tiny_model.embed(PROMPTS).tokens
    latents, step = torch.randn(3, 4, 8, 8), torch.tensor(3)
    with eraser.attach(tiny_model), torch.no_grad():
        by_name = tiny_model.denoiser(latents, step, encoder_hidden_states=text).sample
        by_position = tiny_model.denoiser(latents, step, text, return_dict=False)[0]
    assert torch.equal(by_name, by_position)


def test_a_pipeline_is_edited_in_both_branches_and_with_embeddings_by_hand(eraser: Eraser, tiny_model: Model) -> None:
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    seen: list[Tensor] = []
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    embedded = tiny_model.embed(["a cat", "golf ball"]).tokens
    attention = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    attention.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    arguments: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 3.0, "output_type": "latent"}
    with eraser.attach(pipeline):
        pipeline("a cat", negative_prompt="golf ball", **arguments)
        pipeline(prompt_embeds=embedded[:1], negative_prompt_embeds=embedded[1:], **arguments)
    expected = edit(embedded).flip(0)  # the pipeline puts the negative prompt first
    assert len(seen) == 2
    for text in seen:
        torch.testing.assert_close(text, expected, rtol=1e-5, atol=1e-5)


def test_attached_erasers_are_applied_one_after_the_other(tiny_model: Model) -> None:
    one, two = (efface.erase(tiny_model, concept, to="dog") for concept in ("cat", "golf ball"))
    text = tiny_model.embed(PROMPTS).tokens
    expected = text
    for eraser in (one, two):
        (edit,) = eraser.edits
        assert isinstance(edit, TextEdit)
        expected = edit(expected)
    with one.attach(tiny_model), two.attach(tiny_model):
        both = denoise(tiny_model, text)
    torch.testing.assert_close(both, denoise(tiny_model, expected), rtol=1e-5, atol=1e-6)


def test_a_half_precision_model_is_accepted_and_keeps_its_type(eraser: Eraser, tiny_sd: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = open_model(tiny_sd, dtype=dtype)
        text = model.embed(PROMPTS).tokens.to(dtype)
        with eraser.attach(model):
            assert denoise_half(model, text).dtype is dtype
        eraser.bake(model).undo()


def denoise_half(model: Model, text: Tensor) -> Tensor:
    with torch.no_grad():
        latents = torch.zeros(len(text), 4, 8, 8, dtype=text.dtype)
        return model.denoiser(latents, torch.tensor(5), encoder_hidden_states=text).sample


def test_another_text_encoder_is_refused_unless_forced(eraser: Eraser, other_sd: Path) -> None:
    other = open_model(other_sd)
    for put in (eraser.attach, eraser.bake):
        with pytest.raises(WrongBase, match="--force") as caught:
            put(other)
        assert "\n" not in str(caught.value)
    eraser.attach(other, force=True).detach()


def test_another_width_is_refused_even_if_forced(eraser: Eraser, tiny_model: Model) -> None:
    narrow = replace(eraser, edits=(TextEdit(torch.zeros(8, 1), torch.zeros(8, 1)),))
    with pytest.raises(WrongBase, match="8 wide"):
        narrow.attach(tiny_model, force=True)


def test_a_pipeline_that_gave_up_its_text_encoder_is_attached_to_with_a_warning(
    eraser: Eraser, tiny_model: Model
) -> None:
    pipeline = tiny_model.pipeline()
    pipeline.text_encoder = None
    with pytest.warns(UserWarning, match="no text encoder"):
        eraser.attach(pipeline).detach()


def test_an_ordinary_attachment_warns_of_nothing(eraser: Eraser, tiny_model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eraser.attach(tiny_model).detach()


def test_weight_edits_are_written_scaled_and_restored(eraser: Eraser, tiny_model: Model) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    before = parameters(tiny_model.denoiser)
    delta = torch.randn(before[name].shape)
    weights = replace(eraser, edits=(WeightEdit(f"denoiser.{name}", delta=delta),))
    assert weights.kind_of_edit == "weight"
    with weights.attach(tiny_model) as attachment:
        torch.testing.assert_close(parameters(tiny_model.denoiser)[name], before[name] + delta)
        attachment.set(0.5)
        torch.testing.assert_close(parameters(tiny_model.denoiser)[name], before[name] + 0.5 * delta)
    assert same(parameters(tiny_model.denoiser), before)


def test_a_weight_edit_of_another_shape_is_refused(eraser: Eraser, tiny_model: Model) -> None:
    name = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    before = parameters(tiny_model.denoiser)
    for edit in (
        WeightEdit(name, delta=torch.ones(1)),
        WeightEdit(name, delta=torch.ones(16, 64)),
        WeightEdit(name, up=torch.ones(64, 1), down=torch.ones(1, 16)),
    ):
        with pytest.raises(WrongBase, match="another shape"):
            replace(eraser, edits=(edit,)).attach(tiny_model)
    assert same(parameters(tiny_model.denoiser), before)


def test_a_weight_edit_of_an_absent_parameter_changes_nothing(eraser: Eraser, tiny_model: Model) -> None:
    before = parameters(tiny_model.denoiser)
    edits = (*eraser.edits, WeightEdit("denoiser.nothing.weight", delta=torch.zeros(1)))
    for put in (replace(eraser, edits=edits).bake, replace(eraser, edits=edits).attach):
        with pytest.raises(efface.BadInput, match="nothing"):
            put(tiny_model)
        assert same(parameters(tiny_model.denoiser), before)
        assert not tiny_model.denoiser._forward_pre_hooks
