"""Trained methods on SDXL, SD3 and FLUX: what the denoiser reads, the schedule, and erasers from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import efface
from efface import BadInput, Model, RunContext, WeightEdit, open_model
from efface.methods.trained.ablate.weights import group_parameters
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.trained.esd import PRESETS, EsdConfig
from efface.methods.training.trajectories import TrajectorySampler
from efface.models.denoising import Conditions
from support import parameters, same

Tiny = Callable[..., Any]
METHODS: dict[str, dict[str, Any]] = {
    "esd": {"iterations": 2, "ddim_steps": 4, "reuse": 2, "lr": 1e-3, "train_method": "esd-x", "image_size": 16},
    "lora": {"iterations": 2, "max_denoising_steps": 4, "reuse": 2, "lr": 1e-2, "resolution": 16},
    "ablate": {"train_max_steps": 2, "train_size": 2, "batch_size": 1, "sampling_steps": 1, "base_lr": 1e-3},
    "cie": {"iter_break": 2, "images": 1, "sampling_steps": 1, "lr": 1e-3},
    "sepce": {"iter_break": 2, "images": 1, "sampling_steps": 1, "scale_factor": 1e-2, "tolerance": 0.1},
}


def calls_of(pipeline: Any, denoiser: Any, steps: int, **options: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Input, timestep and prediction of every denoiser call while the pipeline draws one picture."""
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def after(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        x, t = args if len(args) > 1 else (kwargs["hidden_states"], kwargs["timestep"])
        calls.append((x.clone(), t.clone(), output[0].clone()))

    handle = denoiser.register_forward_hook(after, with_kwargs=True)
    try:
        generator = torch.Generator().manual_seed(0)
        size = {"height": 16, "width": 32, "output_type": "latent", "num_inference_steps": steps}
        pipeline("a cat", negative_prompt="", generator=generator, **size, **options)
    finally:
        handle.remove()
    return calls


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_the_text_of_a_model_has_all_that_the_pipeline_passes(tiny: Tiny, family: str) -> None:
    pipeline = tiny(family)
    model = open_model(pipeline)
    texts = Conditions(model.denoiser_text(model.embed(["", "a cat"])))
    calls = calls_of(pipeline, model.denoiser, 2, guidance_scale=4.0)
    assert len(calls) == 2
    for x, t, expected in calls:
        assert len(x) == 2
        with torch.no_grad():
            torch.testing.assert_close(model.predict(x, t, texts), expected, rtol=1e-6, atol=1e-6)
    x = calls[0][0]
    with torch.no_grad():  # the pooled embedding counts
        other = model.predict(x, calls[0][1], Conditions(model.denoiser_text(model.embed(["", "a dog"]))))
    assert not torch.equal(other[1], calls[0][2][1])


def test_the_denoiser_reads_prompts_that_are_cut(tiny: Tiny) -> None:
    for family in ("sdxl", "sd3"):
        model = open_model(tiny(family))
        embedded = model.embed(["cat " * 90, "a cat"], truncate=True)
        assert model.denoiser_text(embedded).shape == (2, embedded.tokens.shape[1] + 1, model.width)


@pytest.mark.parametrize(("family", "shift"), [("sd3", False), ("sd3", True), ("flux", False)])
def test_the_timesteps_of_a_flow_model_are_its_pipelines(tiny: Tiny, family: str, shift: bool) -> None:
    pipeline = tiny(family)
    scheduler = pipeline.scheduler
    try:
        if shift:
            pipeline.scheduler = type(scheduler).from_config(scheduler.config, use_dynamic_shifting=True)
        model = open_model(pipeline)
        calls = calls_of(pipeline, model.denoiser, 5)
        sampler = TrajectorySampler(model.scheduler_config, (4, 8, 16), 5, 1.0, noise_levels=model.noise_levels)
    finally:
        pipeline.scheduler = scheduler
    scale = 1000 if family == "flux" else 1
    times = torch.stack([t.flatten()[0] for _, t, _ in calls][:: len(calls) // 5])
    torch.testing.assert_close(sampler.start()[1], times * scale)


@pytest.fixture
def opened(saved: Callable[[str], Path], tiny_model_of: Callable[[str], Model]) -> Callable[[str], Model]:
    return lambda family: open_model(saved(family)) if family in ("sdxl", "sd3", "flux") else tiny_model_of(family)


def prediction(model: Model) -> Tensor:
    x = torch.randn(1, model.latent_shape[0], 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(x, torch.tensor([500.0]), Conditions(model.denoiser_text(model.embed(["a cat"]))))


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, name) for family in ("sdxl", "sd3", "chroma", "pixart") for name in METHODS),
        *(("z-image", method) for method in ("esd", "lora", "cie", "sepce")),
        *((family, "esd") for family in ("flux", "flux-dev", "flux2", "qwen-image", "sana", "lumina2", "wan")),
        ("flux", "lora"),
        *((family, "lora") for family in ("flux-dev", "lumina2", "wan")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_eraser_is_trained_stored_attached_baked_and_detached(
    opened: Callable[[str], Model], tmp_path: Path, family: str, method: str
) -> None:
    model = opened(family)
    before = parameters(model.denoiser)
    context = RunContext(tmp_path / "training", None, False)
    guide = "dog" if method == "ablate" else ()
    preset: dict[str, Any] = {"preset": family} if method == "esd" and family in PRESETS else {}
    lora = {"sdxl": "leco", "sd3": "slider"}
    preset |= {"preset": lora.get(family, "esd")} if method == "lora" else {}
    eraser = efface.erase(model, "cat", guide, method=method, context=context, **METHODS[method], **preset)
    assert same(parameters(model.denoiser), before)
    assert (tmp_path / "training").is_dir()
    eraser.save(tmp_path / "cat.safetensors")
    plain, loaded = prediction(model), efface.Eraser.load(tmp_path / "cat.safetensors")
    assert loaded.hash == eraser.hash
    with loaded.attach(model):
        attached = prediction(model)
    assert bool(attached.isfinite().all())
    assert not torch.equal(attached, plain)
    baked = loaded.bake(model)
    assert torch.equal(prediction(model), attached)
    baked.undo()
    assert same(parameters(model.denoiser), before)
    assert torch.equal(prediction(model), plain)


def test_the_presets_are_those_of_the_scripts() -> None:
    sdxl, flux = EsdConfig(preset="sdxl"), EsdConfig(preset="flux")
    assert (sdxl.start_guidance, sdxl.negative_guidance, sdxl.iterations, sdxl.lr) == (2.0, 1.0, 200, 2e-4)
    assert (sdxl.ddim_steps, sdxl.image_size, sdxl.sampler) == (50, 1024, "own")
    assert (EsdConfig(preset="sdxl", train_method="esd-u").lr, EsdConfig(preset="sdxl", lr=1.0).lr) == (1e-5, 1.0)
    assert (flux.start_guidance, flux.negative_guidance, flux.iterations, flux.lr) == (3.5, 1.0, 1400, 1e-4)
    assert (flux.ddim_steps, flux.image_size, flux.target, flux.latents) == (28, 512, "concept", "frozen")
    flux2 = EsdConfig(preset="flux2")
    assert (flux2.start_guidance, flux2.negative_guidance, flux2.iterations, flux2.lr) == (4.0, 1.0, 1400, 1e-4)
    assert (flux2.ddim_steps, flux2.image_size, flux2.target, flux2.latents) == (50, None, "concept", "frozen")


def test_the_sets_of_sdxl_are_layers_of_its_blocks_without_those_of_embeddings(
    tiny_model_of: Callable[[str], Model],
) -> None:
    denoiser = tiny_model_of("sdxl").denoiser
    every, others = (set(trained_parameters(denoiser, name)) for name in ("esd-all", "esd-u"))
    assert {name.split(".")[0] for name in every} == {"down_blocks", "mid_block", "up_blocks"}
    assert not any("time_emb_proj" in name for name in every)
    assert any("time_emb_proj" in name for name in trained_parameters(denoiser, "notime"))
    assert others == every - set(trained_parameters(denoiser, "esd-x"))


@pytest.mark.parametrize("method", METHODS)
def test_a_pipeline_whose_transformer_reads_more_is_rejected(
    tiny_model_of: Callable[[str], Model], method: str
) -> None:
    with pytest.raises(BadInput, match=r"is a HunyuanDiTPipeline; methods that train do not support it\.$"):
        efface.erase(tiny_model_of("hunyuan-dit"), "cat", method=method)


def test_one_stream_of_image_and_text_is_ablated_on_images(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.effect_noise((16, 16), 50).save(tmp_path / "dog.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "dog.png", "prompt": "a dog"}\n')
    monkeypatch.setattr(tiny("z-image"), "default_sample_size", 8, raising=False)
    model = open_model(tiny("z-image"))
    options: dict[str, Any] = {**METHODS["ablate"], "datapath": str(tmp_path), "parameter_group": "attn"}
    eraser = efface.erase(model, "cat", "dog", method="ablate", **options)
    names = {name.rpartition(".attention.")[0] for name in group_parameters(model.denoiser, "attn")}
    assert names == {"noise_refiner.0", "context_refiner.0", "layers.0"}
    deltas = {edit.parameter: edit.delta for edit in eraser.edits if isinstance(edit, WeightEdit)}
    changed = {name for name, delta in deltas.items() if delta is not None and delta.any()}
    assert {f"denoiser.{name}.attention.to_v.weight" for name in names} <= changed
    plain = prediction(model)
    with eraser.attach(model):
        assert not torch.equal(prediction(model), plain)


@pytest.mark.parametrize(("family", "method"), [("qwen-image", "ablate"), ("wan", "ablate")])
def test_images_of_other_autoencoders_are_rejected(
    tiny_model_of: Callable[[str], Model], family: str, method: str
) -> None:
    with pytest.raises(BadInput, match=r"encoded by a AutoencoderKL\w+; training on images"):
        efface.erase(tiny_model_of(family), "cat", "dog", method=method, **METHODS[method])


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart"])
def test_nullspace_rejects_texts_that_are_not_of_one_clip(tiny_model_of: Callable[[str], Model], family: str) -> None:
    with pytest.raises(BadInput, match="one CLIP text encoder") as caught:
        efface.erase(tiny_model_of(family), "cat", "dog", method="nullspace", preserve=["a house"])
    assert "\n" not in str(caught.value)


def test_one_stream_of_image_and_text_has_no_keys_of_the_text_alone(tiny_model_of: Callable[[str], Model]) -> None:
    for family in ("z-image", "lumina2"):
        transformer = tiny_model_of(family).denoiser
        with pytest.raises(BadInput, match="parameter_group=cross-attn selects no parameter"):
            group_parameters(transformer, "cross-attn")
        assert group_parameters(transformer, "attn")
        assert set(trained_parameters(transformer, "esd-x-strict")) < set(trained_parameters(transformer, "esd-x"))
