"""Every family on a tiny pipeline of its real classes: how prompts become embeddings, and that editing them works."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, BadRequest, Eraser, Model, TextEdit, WrongBase, open_model
from efface.models.text.embedded import Embedded
from efface.models.text_readers import find_text_readers
from tiny_families import diffusers

OWN = ["sd1", "sd2", "sdxl", "sd3", "flux", "flux-dev"]
GENERIC = ["flux2", "chroma", "sana", "pixart", "lumina2", "qwen-image", "z-image", "hunyuan-dit", "wan"]
#: Families whose text is the output of a norm in the denoiser.
NORMED = ["lumina2", "qwen-image", "z-image"]
#: What reads the text in families that are attached and not baked: it is joined with another text first.
NOT_LINEAR = {"hunyuan-dit": "cat"}
LINEAR = [family for family in (*OWN, *GENERIC) if family not in NOT_LINEAR]
#: Families whose images cannot be generated here, with the message.
NOT_GENERATED = {
    "wan": r"A WanPipeline makes videos; attach the eraser and call it yourself\.",
    "sana": r"A SanaPipeline rejects these settings \(Invalid sample size\)\.",
}
PROMPTS = ["cat", "a golf ball", "", "red car"]
Tiny = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore:.*which the eraser does not edit")


def draw(pipeline: Any, prompt: str = "a cat", **arguments: Any) -> Tensor:
    """Latents of two steps."""
    side = 32 if isinstance(pipeline, diffusers.SanaPipeline) else 16
    wanted: dict[str, Any] = {
        "num_inference_steps": 2, "height": side, "width": side, "use_resolution_binning": False,
        "output_type": "latent", "num_frames": 1,
    }  # fmt: skip
    known = inspect.signature(pipeline.__call__).parameters
    wanted = {name: value for name, value in wanted.items() if name in known}
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt=prompt, generator=generator, **wanted, **arguments)[0]


def state(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}


def text_edits(eraser: Eraser) -> dict[str, TextEdit]:
    return {edit.stream: edit for edit in eraser.edits if isinstance(edit, TextEdit)}


def test_embeddings_are_the_pipelines_bitwise(tiny: Tiny, tiny_model_of: Callable[[str], Model]) -> None:
    with torch.no_grad():
        pipeline = tiny("sd2")
        expected = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)[0]
        assert torch.equal(open_model(pipeline).embed(PROMPTS).tokens, expected)

        pipeline = tiny("sdxl")
        expected = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)[0]
        assert torch.equal(open_model(pipeline).embed(PROMPTS).tokens, expected)
        skipped = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, clip_skip=1)[0]
        assert torch.equal(open_model(pipeline).embed(PROMPTS, clip_skip=1).tokens, skipped)

        pipeline = tiny("sd3")
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
        assert torch.equal(open_model(pipeline).embed(PROMPTS).tokens, text)
        assert torch.equal(open_model(pipeline).reading("pooled").embed(PROMPTS).tokens[:, 0], pooled)

        pipeline = tiny("flux")
        text, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=256)
        assert torch.equal(open_model(pipeline).embed(PROMPTS).tokens, text)
        assert torch.equal(open_model(pipeline).reading("pooled").embed(PROMPTS).tokens[:, 0], pooled)

        pipeline = tiny("flux2")
        text, _ = pipeline.encode_prompt(PROMPTS)
        torch.testing.assert_close(tiny_model_of("flux2").embed(PROMPTS).tokens, text)


@pytest.mark.parametrize(
    ("family", "last", "start"),
    [
        ("sd2", [[1, 3, 0, 2]], 1),
        ("sdxl", [[1, 3, 0, 2]], 1),
        ("sd3", [[1, 3, 0, 2], [0, 2, 0, 1]], 1),
        ("flux", [[0, 2, 0, 1]], 0),
        ("pixart", [[0, 2, 0, 1]], 0),
        ("flux2", [[2, 4, 0, 3]], 2),  # behind <|im_start|> user
        ("lumina2", [[26, 28, 0, 27]], 26),  # behind the start token and the system prompt
    ],
)
def test_the_last_subject_token_is_the_last_word(
    tiny_model_of: Callable[[str], Model], family: str, last: list[list[int]], start: int
) -> None:
    found = tiny_model_of(family).embed(PROMPTS)
    assert [part.last.tolist() for part in found.sequences] == last
    assert found.start == start
    assert found.last_tokens.shape == (len(last) * len(PROMPTS), found.tokens.shape[2])
    for index, part in enumerate(found.sequences):
        rows = found.last_tokens[index :: len(last)]
        assert torch.equal(rows, torch.stack([part.tokens[i, j] for i, j in enumerate(last[index])]))
    few = found.take([3, 0])
    assert few.prompts == ("red car", "cat")
    assert torch.equal(few.last_tokens, found.last_tokens.unflatten(0, (4, -1))[[3, 0]].flatten(0, 1))


@pytest.mark.parametrize("family", [*OWN, *GENERIC])
def test_attaching_changes_the_picture_and_detaching_brings_it_back(
    tiny_model_of: Callable[[str], Model], family: str
) -> None:
    model = tiny_model_of(family)
    pipeline = model.pipeline()
    before, plain = state(model), draw(pipeline)
    eraser = efface.erase(model, "cat", to="dog", preserve=["a house"], variant="window")
    assert list(text_edits(eraser)) == list(model.streams)
    with eraser.attach(model):
        edited = draw(pipeline)
    assert bool(edited.isfinite().all())
    assert not torch.allclose(edited, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(draw(pipeline), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.denoiser.state_dict().items())


@pytest.mark.parametrize("family", LINEAR)
def test_baking_is_attaching_and_is_undone_bitwise(tiny_model_of: Callable[[str], Model], family: str) -> None:
    model = tiny_model_of(family)
    pipeline = model.pipeline()
    before, plain = state(model), draw(pipeline)
    eraser = efface.erase(model, ["cat", "golf ball"], to="dog")
    with eraser.attach(model):
        attached = draw(pipeline)
    baked = eraser.bake(model)
    written = draw(pipeline)
    changed = {name for name, tensor in model.denoiser.state_dict().items() if not torch.equal(tensor, before[name])}
    baked.undo()
    torch.testing.assert_close(written, attached, rtol=1e-3, atol=1e-4)
    assert (attached - plain).abs().max() > 10 * (written - attached).abs().max()
    assert changed == {name for stream in model.streams for name in model.reading(stream).text_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.denoiser.state_dict().items())


@pytest.mark.parametrize("family", [*OWN, *GENERIC])
def test_images_are_generated_with_an_eraser(
    tiny_model_of: Callable[[str], Model], tmp_path: Path, family: str
) -> None:
    eraser, folder = efface.erase(tiny_model_of(family), "cat", to="dog"), tmp_path / "images"
    size: dict[str, Any] = {"size": (16, 16)} if family in ("sana", "z-image") else {}
    ask = partial(
        efface.generate, ["a cat"], model=tiny_model_of(family), eraser=eraser, folder=folder, steps=1, **size
    )
    if family in NOT_GENERATED:
        with pytest.raises(BadInput, match=NOT_GENERATED[family]):
            ask()
        return
    ask()
    assert len(list(folder.glob("*.png"))) == 1


def test_a_transformer_without_the_texts_argument_is_rejected_from_its_folder(
    saved: Callable[[str], Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    index = json.loads((saved("z-image") / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "DiTTransformer2DModel"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    message = refused("erase", "cat", "--model", tmp_path / "model", "-o", "cat.safetensors")
    assert "takes no encoder_hidden_states; efface cannot edit it." in message


@pytest.mark.parametrize("family", NOT_LINEAR)
def test_where_text_is_not_read_by_linear_maps_baking_says_why(
    tiny_model_of: Callable[[str], Model], family: str
) -> None:
    model = tiny_model_of(family)
    eraser = efface.erase(model, "cat", to="dog")
    for ask in (lambda: eraser.bake(model), model.text_parameters, lambda: list(model.text_weights())):
        with pytest.raises(
            BadInput, match=f"joins the text with another input by '{NOT_LINEAR[family]}'.*attach"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="joins the text"):
        efface.erase(model, "cat", to="dog", method="rece")
    assert not model.denoiser._forward_pre_hooks
    assert not model.denoiser._forward_hooks


@pytest.mark.parametrize("family", OWN)
def test_the_maps_that_read_the_text_are_those_seen_reading_it(tiny: Tiny, family: str) -> None:
    model = open_model(tiny(family))
    for stream, argument in model.streams.items():
        seen = find_text_readers(model.pipeline(), model.denoiser, argument)
        assert set(seen) == set(model.reading(stream).text_parameters())


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_biased_map_is_edited_as_if_it_had_none(tiny: Tiny, family: str) -> None:
    """The reference's loop over tokens, with v* = W g: the bias of the map counts once."""
    model = open_model(tiny(family))
    eraser = efface.erase(model, "cat", to="dog", lamb=0.1)
    for stream, edit in text_edits(eraser).items():
        reader = model.reading(stream)
        concept, guide = (reader.embed([word]).last_tokens.double() for word in ("cat", "dog"))
        ((name, weight),) = reader.text_weights()
        assert model.denoiser.get_parameter(name.replace("weight", "bias")).abs().sum() > 0
        weight = weight.double()
        left, right = 0.1 * weight, 0.1 * torch.eye(weight.shape[1], dtype=torch.float64)
        for c, g in zip(concept, guide, strict=True):
            left, right = left + torch.outer(weight @ g, c), right + torch.outer(c, c)
        expected = left @ torch.linalg.inv(right)
        assert float((edit.on(weight) - expected).norm() / expected.norm()) < 1e-10


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_each_stream_is_edited_on_its_own(tiny: Tiny, family: str) -> None:
    pipeline = tiny(family)
    eraser = efface.erase(pipeline, "cat", to="dog")
    plain = draw(pipeline)
    alone: list[Tensor] = []
    for edit in eraser.edits:
        with pytest.warns(UserWarning, match="does not edit"), replace(eraser, edits=(edit,)).attach(pipeline):
            alone.append(draw(pipeline))
    assert not torch.equal(alone[0], plain)
    assert not torch.equal(alone[1], plain)
    assert not torch.equal(alone[0], alone[1])
    without = efface.erase(open_model(pipeline), efface.Request.model_validate({"concepts": ["cat"], "pooled": False}))
    assert [edit.stream for edit in text_edits(without).values()] == ["text"]
    with pytest.warns(UserWarning, match="pooled_projections"):
        without.attach(pipeline).detach()


def test_text_that_enters_beside_the_edit_is_warned_of(tiny: Tiny) -> None:
    eraser = efface.erase(tiny("sdxl"), "cat", to="dog")
    with pytest.warns(UserWarning, match="pooled text embedding"):
        eraser.attach(tiny("sdxl")).detach()


def test_another_family_is_refused(tiny: Tiny, tiny_model: Model) -> None:
    pipelines = {family: tiny(family) for family in ("sd2", "sdxl", "sd3", "flux", "pixart")} | {"sd": tiny_model}
    erasers = {family: efface.erase(pipeline, "cat", to="dog") for family, pipeline in pipelines.items()}
    for made_for, eraser in erasers.items():
        for family, pipeline in pipelines.items():
            if family != made_for:
                for put in (eraser.attach, eraser.bake):
                    with pytest.raises(WrongBase, match="made for"):
                        put(pipeline)


def test_the_same_family_with_other_weights_is_refused(tiny: Tiny) -> None:
    eraser = efface.erase(tiny("flux"), "cat", to="dog")
    with pytest.raises(WrongBase, match="--force"):
        eraser.attach(tiny("flux", seed=1))
    eraser.attach(tiny("flux", seed=1), force=True).detach()


@pytest.mark.parametrize("family", [*OWN, "pixart"])
def test_a_folder_is_its_pipeline(tiny: Tiny, saved: Callable[[str], Path], family: str) -> None:
    model, loaded = open_model(saved(family)), open_model(tiny(family))
    assert model.width == loaded.width
    assert model.max_tokens == loaded.max_tokens
    for stream in model.streams:
        one, other = model.reading(stream), loaded.reading(stream)
        assert torch.equal(one.embed(PROMPTS).tokens, other.embed(PROMPTS).tokens)
        streamed = dict(one.text_weights())
        assert set(streamed) == set(one.text_parameters()) == set(other.text_parameters())
        assert all(torch.equal(weight, streamed[name]) for name, weight in other.text_weights())
    if family in OWN:
        assert model.denoiser_part not in model._parts  # type: ignore[attr-defined]
    torch.testing.assert_close(draw(model.pipeline()), draw(tiny(family)), rtol=1e-4, atol=1e-4)
    assert len(model.hash) == 64


def test_what_a_family_cannot_embed_is_refused(tiny: Tiny) -> None:
    for family in ("flux", "pixart"):
        with pytest.raises(BadRequest, match="clip_skip"):
            open_model(tiny(family)).embed(["cat"], clip_skip=1)
        with pytest.raises(BadRequest, match="at most"):
            open_model(tiny(family)).embed(["cat " * 600])
    with pytest.raises(BadRequest, match="3 layers"):
        open_model(tiny("sdxl")).embed(["cat"], clip_skip=3)
    with pytest.raises(BadRequest, match="at most 12"):
        open_model(tiny("sd3")).embed(["cat " * 20])


def test_sd3_without_t5_has_one_subject_a_prompt(tiny: Tiny) -> None:
    pipeline = tiny("sd3")
    encoder, pipeline.text_encoder_3 = pipeline.text_encoder_3, None
    try:
        found = open_model(pipeline).embed(PROMPTS)
        expected = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)[0]
        assert torch.equal(found.tokens, expected)
        assert found.last_tokens.shape == (len(PROMPTS), found.tokens.shape[2])
        eraser = efface.erase(pipeline, "cat", to="dog")
        assert text_edits(eraser)["text"].rank == 1
        eraser.attach(pipeline).detach()
    finally:
        pipeline.text_encoder_3 = encoder


@pytest.mark.parametrize("family", NORMED)
def test_the_text_of_a_normed_family_is_what_its_map_reads(tiny_model_of: Callable[[str], Model], family: str) -> None:
    model = tiny_model_of(family)
    assert model.text_map is not None
    read: list[Tensor] = []
    handle = model.denoiser.get_submodule(model.text_map).register_forward_pre_hook(
        lambda module, args: read.append(args[0])
    )
    try:
        draw(model.pipeline(), "red car")
    finally:
        handle.remove()
    (token,) = model.embed(["red car"]).last_tokens
    assert any((text.flatten(0, -2) - token).norm(dim=1).min() < 1e-5 * token.norm() for text in read)
    assert model.text_parameters() == (f"{model.text_map}.weight",)
    again = Embedded.stacked([model.embed([prompt]) for prompt in ("a golf ball", "red car")]).take([1])
    assert torch.equal(again.argument[:, :1], model.embed(["red car"]).argument[:, :1])


def test_a_batch_of_prompts_with_an_eraser_each(tiny_model_of: Callable[[str], Model]) -> None:
    """The rows of Qwen-Image's text are told apart; Z-Image reads those of all prompts as one sequence."""
    for family in ("qwen-image", "z-image"):
        model = tiny_model_of(family)
        erasers = [efface.erase(model, "cat", to="dog"), None]
        pipeline, size = (
            model.pipeline(),
            {"height": 16, "width": 16, "num_inference_steps": 1, "output_type": "latent"},
        )
        with efface.attach_each(erasers, pipeline):
            if family == "z-image":
                with pytest.raises(BadInput, match="one sequence"):
                    pipeline(prompt=["a cat", "a cat"], **size)
                continue
            one, two = pipeline(prompt=["a cat", "a cat"], generator=generators(), **size)[0]
        plain = pipeline(prompt=["a cat", "a cat"], generator=generators(), **size)[0]
        assert not torch.allclose(one, plain[0], atol=1e-5)
        torch.testing.assert_close(two, plain[1], rtol=1e-5, atol=1e-5)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0) for _ in range(2)]


def test_guards_and_whole_graphs_are_rejected_where_the_text_is_edited_inside(
    tiny_model_of: Callable[[str], Model],
) -> None:
    model = tiny_model_of("z-image")
    with pytest.raises(BadInput, match=r"argument encoder_hidden_states, which the denoiser of .* does not have"):
        efface.erase(model, "cat", method="negative")
    eraser, transformer = efface.erase(model, "cat", to="dog"), model.denoiser
    try:
        transformer.compile()
        with pytest.raises(BadInput, match="compiled as a whole; compile its blocks"):
            eraser.attach(model)
    finally:
        transformer._compiled_call_impl = None
    transformer.layers[0].compile()  # a block alone does not matter
    try:
        eraser.attach(model).detach()
    finally:
        transformer.layers[0]._compiled_call_impl = None


def test_the_map_of_a_normed_text_may_hold_a_lora(tiny: Tiny) -> None:
    from peft import LoraConfig

    pipeline = tiny("qwen-image", seed=3)
    eraser = efface.erase(pipeline, "cat", to="dog")
    pipeline.transformer.add_adapter(LoraConfig(r=1, target_modules=["txt_in"]))
    plain = draw(pipeline)
    with eraser.attach(pipeline):
        assert not torch.allclose(draw(pipeline), plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(draw(pipeline), plain)
