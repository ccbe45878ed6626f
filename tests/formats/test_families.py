"""Erasers of every family in the formats of other tools, each proven by what loads them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

import efface
from efface import BadInput, Eraser, Model, WeightEdit, open_model
from efface.edits.kinds import describe
from efface.formats.loaded_lora import check_loads
from efface.formats.low_rank import low_rank
from efface.models.denoising import Conditions

Tiny = Callable[..., Any]
Saved = Callable[[str], Path]
TO_Q = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"

pytestmark = pytest.mark.filterwarnings("ignore:.*which the eraser does not edit")


def draw(pipeline: Any) -> Tensor:
    """Latents of one step."""
    generator, size = torch.Generator().manual_seed(0), {"height": 16, "width": 16}
    return pipeline(prompt="a cat", num_inference_steps=1, output_type="latent", generator=generator, **size).images


def fresh(folder: Path) -> Any:
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check(found: Tensor, expected: Tensor, plain: Tensor) -> None:
    """As near as rounding lets it be: far nearer than the change is large."""
    assert (expected - plain).abs().max() > 0
    assert (found - expected).abs().max() < 1e-2 * (expected - plain).abs().max()


def load(path: Path, format: str, base: Path) -> Any:
    """The pipeline that another tool makes of the file."""
    if format == "diffusers":
        return fresh(path)
    if format == "single-file":
        pipeline: Any = type(fresh(base)).from_single_file(str(path), config=str(base), local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
    pipeline = fresh(base)
    if format == "uce":
        denoiser = open_model(pipeline).denoiser
        assert not denoiser.load_state_dict(load_file(path), strict=False).unexpected_keys
    else:
        pipeline.load_lora_weights(path)
    return pipeline


@pytest.mark.parametrize(
    ("family", "format"),
    [
        *((family, format) for family in ("sd2", "sdxl", "sd3", "flux") for format in ("lora", "diffusers", "uce")),
        ("sd2", "kohya"), ("sdxl", "kohya"), ("flux", "kohya"), ("sd2", "single-file"), ("chroma", "diffusers"),
    ],
)  # fmt: skip
def test_what_is_loaded_draws_as_with_the_eraser_attached(
    tiny: Tiny, saved: Saved, tmp_path: Path, family: str, format: str
) -> None:
    pipeline, path = tiny(family), tmp_path / ("model" if format == "diffusers" else "x.safetensors")
    eraser, plain = efface.erase(pipeline, ["cat", "golf ball"], "dog", variant="window"), draw(pipeline)
    efface.export(eraser, format, path, model=open_model(saved(family)))
    with eraser.attach(pipeline):
        expected = draw(pipeline)
    check(draw(load(path, format, saved(family))), expected, plain)


@pytest.mark.parametrize(("family", "format"), [("sd3", "kohya"), ("sd3", "single-file")])
def test_formats_of_other_families_are_refused(tiny: Tiny, tmp_path: Path, family: str, format: str) -> None:
    eraser = efface.erase(tiny(family), "cat", "dog")
    with pytest.raises(BadInput, match=r"export it as (lora|diffusers)"):
        efface.export(eraser, format, tmp_path / "x.safetensors", model=open_model(tiny(family)))


def test_a_checkpoint_of_stable_diffusion_2_holds_its_text_encoder(tiny: Tiny, saved: Saved, tmp_path: Path) -> None:
    """In OpenCLIP's names, queries, keys and values as one, each with what an eraser adds to it."""
    model, path = open_model(tiny("sd2")), tmp_path / "x.safetensors"
    attention, scales = "text_encoder.encoder.layers.1.self_attn", {"k": 1.0, "v": 2.0}
    edits = tuple(
        WeightEdit(f"{attention}.{letter}_proj.weight", delta=scale * torch.eye(24)) for letter, scale in scales.items()
    )
    eraser = replace(efface.erase(model, "cat", "dog"), edits=edits)
    efface.export(eraser, "single-file", path, model=open_model(saved("sd2")))
    names = load_file(path)
    joined = names["cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"]
    assert joined.shape == (72, 24)
    assert names["model.diffusion_model.input_blocks.1.1.proj_in.weight"].ndim == 2
    opened = open_model(path, config=saved("sd2"))
    with eraser.attach(model):
        for part in ("text_encoder", "denoiser", "vae"):
            found = opened.part(part).state_dict()
            for name, tensor in model.weights(part):
                torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
    # OpenCLIP's last layer, which diffusers leaves out, is in the published files.
    names["cond_stage_model.model.transformer.resblocks.3.ln_1.bias"] = torch.ones(24)
    save_file(names, path)
    back = efface.import_eraser(path, model, "cat")
    changed = {edit.parameter for edit in back.edits if isinstance(edit, WeightEdit)}
    assert changed == {f"{attention}.{letter}_proj.weight" for letter in scales}
    with eraser.attach(model):
        expected = {name: tensor.clone() for name, tensor in model.weights("text_encoder")}
    with back.attach(model):
        for name, tensor in model.weights("text_encoder"):
            torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def weights_of_sdxl(model: Model) -> Eraser:
    """Changes of one map in the U-Net and in both text encoders."""
    names = [next(name for name, _ in model.weights(part) if name.endswith("layers.0.mlp.fc2.weight"))
             for part in ("text_encoder", "text_encoder_2")]  # fmt: skip
    full = [TO_Q, f"text_encoder.{names[0]}", f"text_encoder_2.{names[1]}"]
    edits: list[WeightEdit] = []
    for seed, name in enumerate(full):
        part, _, parameter = name.partition(".")
        rows, columns = dict(model.weights(part, [parameter]))[parameter].shape
        generator = torch.Generator().manual_seed(seed)
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        edits.append(WeightEdit(name, up=up, down=down))
    return replace(efface.erase(model, "cat", "dog"), edits=tuple(edits))


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_weights_of_both_text_encoders_go_out_and_come_back(
    tiny: Tiny, saved: Saved, tmp_path: Path, format: str
) -> None:
    pipeline, path = tiny("sdxl"), tmp_path / "x.safetensors"
    model = open_model(pipeline)
    eraser, plain = weights_of_sdxl(model), draw(pipeline)
    efface.export(eraser, format, path, model=open_model(saved("sdxl")))
    if format == "kohya":
        stems = {name.split("_text_model_")[0] for name in load_file(path) if name.startswith("lora_te")}
        assert stems == {"lora_te1", "lora_te2"}
    with eraser.attach(pipeline):
        expected, text = draw(pipeline), model.embed(["a cat"]).tokens
    assert torch.equal(draw(pipeline), plain)
    baked = eraser.bake(pipeline)
    assert torch.equal(draw(pipeline), expected)
    baked.undo()

    loaded = fresh(saved("sdxl"))
    loaded.load_lora_weights(path)
    check(draw(loaded), expected, plain)
    check(open_model(loaded).embed(["a cat"]).tokens, text, model.embed(["a cat"]).tokens)
    back = efface.import_eraser(path, str(saved("sdxl")), "cat")
    assert {str(edit) for edit in map(describe, back.edits)} == {str(edit) for edit in map(describe, eraser.edits)}
    with back.attach(pipeline):
        check(draw(pipeline), expected, plain)


def test_a_single_file_of_sdxl_is_read_by_diffusers_and_by_efface(tiny: Tiny, saved: Saved, tmp_path: Path) -> None:
    model, path, base = open_model(tiny("sdxl")), tmp_path / "x.safetensors", saved("sdxl")
    text, weights = efface.erase(model, "cat", "dog"), weights_of_sdxl(model)
    eraser = replace(text, edits=(*text.edits, *weights.edits))
    efface.export(eraser, "single-file", path, model=open_model(base))
    tensors = load_file(path)
    second = "conditioner.embedders.1.model"
    assert tensors[f"{second}.transformer.resblocks.0.attn.in_proj_weight"].shape == (72, 24)
    assert tensors[f"{second}.text_projection"].shape == (24, 12)
    assert tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight"].shape[1] == 16
    assert tensors["model.diffusion_model.label_emb.0.0.weight"].shape[1] == 60
    baked = eraser.bake(model)
    parts = ("denoiser", "vae", "text_encoder", "text_encoder_2")
    expected = {part: {name: tensor.clone() for name, tensor in model.weights(part)} for part in parts}
    baked.undo()
    loaded = open_model(type(fresh(base)).from_single_file(str(path), config=str(base), local_files_only=True))
    opened = open_model(path, config=base)
    for of in (loaded, opened):
        for part in parts:
            found = of.part(part).state_dict()
            assert found.keys() == expected[part].keys()
            for name, tensor in expected[part].items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert set(opened.text_parameters()) == set(model.text_parameters())
    back = efface.import_eraser(path, model, "cat")
    assert {edit.parameter for edit in back.edits if isinstance(edit, WeightEdit)} == {
        *(edit.parameter for edit in weights.edits if isinstance(edit, WeightEdit)),
        *(f"denoiser.{name}" for name in model.text_parameters()),
    }


def test_a_single_file_of_sdxl_has_its_prediction_type(saved: Saved, tmp_path: Path) -> None:
    pipeline: Any = fresh(saved("sdxl"))
    path = tmp_path / "x.safetensors"
    eraser = efface.erase(pipeline, "cat", "dog")
    plain, base = pipeline.scheduler, open_model(saved("sdxl"))
    for settings, markers in (({}, set()), ({"rescale_betas_zero_snr": True}, {"ztsnr"})):
        pipeline.scheduler = type(plain).from_config(plain.config, prediction_type="v_prediction", **settings)
        efface.export(eraser, "single-file", path, model=open_model(pipeline), force=True)
        assert {name for name in load_file(path) if "." not in name} == {"v_pred", *markers}
        assert open_model(path).scheduler_config["prediction_type"] == "v_prediction"
        assert bool(open_model(path).scheduler_config.get("rescale_betas_zero_snr")) == bool(markers)
        assert efface.import_eraser(path, base, "cat").edits
    pipeline.text_encoder = None
    with pytest.raises(BadInput, match="has no text_encoder, which a single file contains"):
        efface.export(eraser, "single-file", tmp_path / "y.safetensors", model=open_model(pipeline), force=True)


def test_a_part_that_a_model_lacks_is_named(tiny: Tiny, tiny_model: Model) -> None:
    assert open_model(tiny("sd3")).encoder_parts == ("text_encoder", "text_encoder_2", "text_encoder_3")
    assert tiny_model.encoder_parts == ("text_encoder",)
    with pytest.raises(BadInput, match="no part 'text_encoder_2'"):
        list(tiny_model.weights("text_encoder_2"))


def prediction(model: Model, text: Tensor) -> Tensor:
    x = torch.randn(1, model.latent_shape[0], 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(x, torch.tensor([500.0]), Conditions(text))


@pytest.mark.parametrize(
    "family",
    [
        "sd1",
        "sdxl",
        "sd3",
        "flux",
        "flux-dev",
        "flux2",
        "chroma",
        "sana",
        "wan",
        "lumina2",
        "qwen-image",
        "z-image",
    ],
)
def test_an_eraser_attached_loaded_by_diffusers_imported_or_baked_predicts_the_same(
    tiny_model_of: Callable[[str], Model], saved: Saved, tmp_path: Path, family: str
) -> None:
    model, path = tiny_model_of(family), tmp_path / "x.safetensors"
    eraser = efface.erase(model, ["cat", "golf ball"], "dog", variant="window")
    text = model.denoiser_text(model.embed(["a cat"]))
    plain = prediction(model, text)
    efface.export(eraser, "lora", path, model=model)
    with eraser.attach(model):
        attached = prediction(model, text)
    baked = eraser.bake(model)
    found = {"baked": prediction(model, text)}
    baked.undo()
    with efface.import_eraser(path, model, "cat").attach(model):
        found["imported"] = prediction(model, text)
    loaded = fresh(saved(family))
    loaded.load_lora_weights(path)
    found["loaded"] = prediction(open_model(loaded), text)
    assert torch.equal(prediction(model, text), plain)
    assert (attached - plain).abs().max() > 1e-3
    for way, result in found.items():
        assert (result - attached).abs().max() < 1e-5, way


@pytest.mark.parametrize(
    ("family", "format", "message"),
    [
        ("pixart", "lora", "cannot load a LoRA into a PixArtSigmaPipeline; export the eraser as diffusers or uce"),
        *(
            (family, "kohya", "kohya's names are for U-Nets and FLUX.1")
            for family in ("flux2", "sana", "wan", "pixart")
        ),
        *(
            ("hunyuan-dit", format, "joins the text with another input.*attach the eraser")
            for format in ("lora", "uce", "diffusers")
        ),
    ],
)
def test_what_no_file_can_hold_is_rejected_and_nothing_is_written(
    tiny_model_of: Callable[[str], Model], tmp_path: Path, family: str, format: str, message: str
) -> None:
    model, path = tiny_model_of(family), tmp_path / "x.safetensors"
    eraser = efface.erase(model, "cat", "dog")
    with pytest.raises(BadInput, match=message) as caught:
        efface.export(eraser, format, path, model=model)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_that_diffusers_accepts_and_ignores_are_found(tiny_model_of: Callable[[str], Model]) -> None:
    """diffusers 0.42 reads a FLUX.1 LoRA of the text's map in kohya's or BFL's names without an error or an effect."""
    model = tiny_model_of("flux")
    factors = low_rank(efface.erase(model, "cat", "dog", variant="window"), model, None)
    text = next(of_module for of_module in factors if of_module.module == "context_embedder")
    down, up = text.tensors()
    check_loads(
        model, {f"transformer.{text.module}.lora_{side}.weight": x for side, x in (("A", down), ("B", up))}, [text]
    )
    kohya = {"lora_unet_txt_in.lora_down.weight": down, "lora_unet_txt_in.lora_up.weight": up}
    with pytest.raises(BadInput, match="does not load the change of context_embedder from a LoRA for a FluxPipeline"):
        check_loads(model, {**kohya, "lora_unet_txt_in.alpha": torch.tensor(float(len(down)))}, [text])
    halved = {"transformer.context_embedder.lora_A.weight": down, "transformer.context_embedder.lora_B.weight": up / 2}
    with pytest.raises(BadInput, match="does not load the change of context_embedder"):
        check_loads(model, halved, [text])
