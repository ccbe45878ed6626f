"""The denoiser's call, guidance, noise and text encoding of a model, against those of its diffusers pipeline."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers as _diffusers
import pytest
import torch
from torch import Tensor

from efface import BadInput, BadRequest, Model, open_model
from efface.models.denoising import Conditions, NoiseSchedule, ddim_scheduler, guided, noise_schedule
from efface.models.families.patches import latents_of_patches
from efface.models.flow import FlowSchedule, set_timesteps
from efface.models.text.encoding import SoftTokens, encode_ids, token_table
from efface.models.text.tokens import token_ids

diffusers: Any = _diffusers

PROMPTS = ["a red cat", "", "golf ball"]
Tiny = Callable[..., Any]


def calls_of(pipeline: Any, denoiser: Any, **options: Any) -> list[tuple[dict[str, Any], Tensor]]:
    """The arguments and the prediction of every denoiser call of a pipeline that draws one picture in two steps."""
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def after(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        names = ("sample" if hasattr(module.config, "down_block_types") else "hidden_states", "timestep")
        calls.append(({**dict(zip(names, args, strict=False)), **kwargs}, output[0].clone()))

    handle = denoiser.register_forward_hook(after, with_kwargs=True)
    try:
        generator = torch.Generator().manual_seed(0)
        arguments = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent", **options}
        pipeline("a cat", generator=generator, **arguments)
    finally:
        handle.remove()
    return calls


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3"])
def test_a_prediction_is_the_pipelines_own(tiny: Tiny, family: str) -> None:
    pipeline = tiny(family)
    model = open_model(pipeline)
    calls = calls_of(pipeline, model.denoiser)
    assert len(calls) == 2
    for arguments, expected in calls:
        x = arguments.pop("sample", None)
        x = arguments.pop("hidden_states") if x is None else x
        t, text = arguments.pop("timestep"), arguments.pop("encoder_hidden_states")
        arguments.pop("return_dict")
        with torch.no_grad():
            found = model.predict(x, t, Conditions(text, arguments))
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_a_prediction_of_flux_is_the_pipelines_own_with_latents_as_images(tiny: Tiny) -> None:
    pipeline = tiny("flux")
    model = open_model(pipeline)
    text = model.denoiser_text(model.embed(["a cat"]))
    assert text.shape == (1, model.max_tokens + 1, model.width)
    pipeline_calls = calls_of(pipeline, model.denoiser, max_sequence_length=model.max_tokens)
    assert len(pipeline_calls) == 2
    for arguments, expected in pipeline_calls:
        packed = arguments["hidden_states"]
        x = pipeline._unpack_latents(packed, 16, 16, pipeline.vae_scale_factor)
        with torch.no_grad():
            found = model.predict(x, 1000 * arguments["timestep"], Conditions(text))
        torch.testing.assert_close(pipeline._pack_latents(found, *found.shape), expected, rtol=1e-6, atol=1e-6)


def steps_of(pipeline: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Latents, timestep and prediction of each step of a pipeline that draws "a cat" without guidance."""
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    step = pipeline.scheduler.step

    def recorded(prediction: Tensor, t: Tensor, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        steps.append((latents.clone(), t, prediction.clone()))
        return step(prediction, t, latents, *args, **kwargs)

    monkeypatch.setattr(pipeline.scheduler, "step", recorded)
    wanted = {
        "num_inference_steps": 3, "height": 32, "width": 64, "num_frames": 1, "use_resolution_binning": False,
        "output_type": "latent", "guidance_scale": 1.0,
    }  # fmt: skip
    known = inspect.signature(pipeline.__call__).parameters
    arguments = {name: value for name, value in wanted.items() if name in known}
    pipeline(prompt="a cat", generator=torch.Generator().manual_seed(0), **arguments | options)
    return steps


def as_image(model: Model, latents: Tensor) -> Tensor:
    """Latents of a 32 x 64 image, or of a video of one frame, as `predict` takes them."""
    factor = model.pixels_per_latent
    return latents_of_patches(latents, 32 // factor, 64 // factor) if latents.ndim == 3 else latents.squeeze(2)


FAMILIES = ["flux-dev", "flux2", "chroma", "qwen-image", "sana", "pixart", "lumina2", "wan", "z-image"]


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_of_transformers_are_the_pipelines_own(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    pipeline = tiny(family)
    model = open_model(pipeline)
    texts = model.denoiser_text(model.embed(["the red dog in a house", "a cat"]))
    options: dict[str, Any] = {"max_sequence_length": model.max_tokens} if family == "flux-dev" else {}
    if model.with_guidance is not None:
        options["guidance_scale"], texts = 3.5, model.with_guidance(texts, 3.5)
    options |= {"guidance_scale": 0.0} if family == "z-image" else {}  # its scale counts from 0
    steps = steps_of(pipeline, monkeypatch, **options)
    assert len(steps) == 3
    for latents, t, expected in steps:
        x = as_image(model, latents)
        with torch.no_grad():
            both = model.predict(torch.cat([x, x]), t, Conditions(texts))
            alone = [model.predict(x, t, Conditions(texts[row : row + 1])) for row in range(2)]
        assert both.shape[1:] == x.shape[1:]
        torch.testing.assert_close(alone[1], as_image(model, expected), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(both, torch.cat(alone), rtol=1e-5, atol=2e-6)
        assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_timesteps_of_transformers_are_their_pipelines(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    pipeline = tiny(family)
    if family in ("flux2", "qwen-image"):  # as they are published
        shifted = type(pipeline.scheduler).from_config(pipeline.scheduler.config, use_dynamic_shifting=True)
        monkeypatch.setattr(pipeline, "scheduler", shifted)
    model = open_model(pipeline)
    expected = torch.stack([t for _, t, _ in steps_of(pipeline, monkeypatch)])
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    factor = model.pixels_per_latent
    set_timesteps(scheduler, 3, (model.latent_shape[0], 32 // factor, 64 // factor), "cpu", model.noise_levels)
    torch.testing.assert_close(scheduler.timesteps, expected, rtol=1e-6, atol=0)


def test_arguments_take_the_denoisers_type_and_one_text_serves_all_samples(tiny_model: Model) -> None:
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 50, 500])
    text = tiny_model.embed(["a cat"]).tokens
    with torch.no_grad():
        expected = tiny_model.denoiser(x, t, text.repeat(3, 1, 1)).sample
        assert torch.equal(tiny_model.predict(x.double(), t, Conditions(text.double())), expected)
    moved = Conditions(text, {"mask": torch.ones(1, dtype=torch.bool), "of": {"p": text}, "scale": 2}).to(
        torch.device("cpu"), torch.bfloat16
    )
    assert moved.text.dtype == moved.others["of"]["p"].dtype == torch.bfloat16
    assert moved.others["mask"].dtype == torch.bool
    assert moved.others["scale"] == 2


def test_other_parameters_take_the_place_of_the_denoisers_and_receive_gradients(tiny_model: Model) -> None:
    name = tiny_model.text_parameters()[0]
    own = tiny_model.denoiser.get_parameter(name)
    x, t, conditions = torch.ones(1, 4, 8, 8), torch.tensor([3]), Conditions(tiny_model.embed(["a cat"]).tokens)
    with torch.no_grad():
        before = tiny_model.predict(x, t, conditions)
    assert torch.equal(tiny_model.predict(x, t, conditions, {name: own.clone()}), before)
    student = (own * 2).requires_grad_()
    changed = tiny_model.predict(x, t, conditions, {name: student})
    (gradient,) = torch.autograd.grad(changed.square().sum(), student)
    assert not torch.equal(changed, before)
    assert gradient.abs().max() > 0
    with torch.no_grad():
        assert torch.equal(tiny_model.predict(x, t, conditions), before)


def test_guidance_is_the_equation_with_one_scale_or_one_for_each_sample() -> None:
    unconditional, conditional = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])
    assert guided(unconditional, conditional, 2.0).tolist() == [5, 5]
    assert guided(unconditional, conditional, torch.tensor([1.0, 0.0])).tolist() == [3, 1]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target_are_the_schedulers_and_the_equations(tiny_model: Model, prediction: str) -> None:
    config = {**tiny_model.scheduler_config, "prediction_type": prediction}
    schedule, ddpm = NoiseSchedule(config), diffusers.DDPMScheduler.from_config(dict(config))
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 400, 999])
    assert schedule.timesteps == 1000
    assert torch.equal(schedule.alphas_cumprod, ddpm.alphas_cumprod)
    a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    found = schedule.add_noise(latents, noise, t)
    assert torch.equal(found, ddpm.add_noise(latents, noise, t))
    torch.testing.assert_close(found, a.sqrt() * latents + (1 - a).sqrt() * noise)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
    torch.testing.assert_close(
        schedule.target(latents, noise, t), noise if prediction == "epsilon" else velocity, rtol=1e-6, atol=1e-6
    )


def test_the_models_own_schedule_has_the_betas_of_its_training(tiny_model: Model) -> None:
    expected = diffusers.DDIMScheduler.from_config(dict(tiny_model.scheduler_config)).alphas_cumprod
    schedule = tiny_model.noise_schedule()
    assert isinstance(schedule, NoiseSchedule)
    assert torch.equal(schedule.alphas_cumprod, expected)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_model_that_is_trained_by_flow_matching_adds_noise_along_a_line(tiny: Tiny, family: str) -> None:
    schedule = open_model(tiny(family)).noise_schedule()
    assert isinstance(schedule, FlowSchedule)
    latents, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 250, 999])
    s = (t / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(schedule.add_noise(latents, noise, t), (1 - s) * latents + s * noise)
    assert torch.equal(schedule.target(latents, noise, t), noise - latents)


def test_a_model_without_a_known_schedule_is_refused() -> None:
    with pytest.raises(BadInput, match="neither on a schedule of betas nor by flow matching"):
        noise_schedule({"_class_name": "SASolverScheduler"})


def test_a_prediction_of_pictures_is_refused_as_a_target(tiny_model: Model) -> None:
    schedule = NoiseSchedule({**tiny_model.scheduler_config, "prediction_type": "sample"})
    with pytest.raises(BadInput, match="predicts 'sample'"):
        schedule.target(torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8), torch.tensor([1]))


def test_ddim_does_not_clip_latents(tiny_model: Model) -> None:
    config: Mapping[str, Any] = {**tiny_model.scheduler_config, "clip_sample": True}
    assert not ddim_scheduler(config).config.clip_sample
    assert ddim_scheduler(config, timestep_spacing="trailing").config.timestep_spacing == "trailing"


def ids_of(model: Model, prompts: list[str]) -> Tensor:
    return token_ids(model.tokenizer, prompts, model.max_tokens, truncate=False)[0]


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_encoded_ids_are_the_pipelines_prompt_embeddings(
    tiny_sd: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, clip_skip: int | None
) -> None:
    for pipeline in (diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd), tiny("sd2")):
        model = open_model(pipeline)
        # diffusers 0.42 looks for the final layer norm where transformers 4 has it.
        monkeypatch.setitem(vars(pipeline.text_encoder), "text_model", pipeline.text_encoder)
        with torch.no_grad():
            expected = pipeline.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=clip_skip)[0]
            assert torch.equal(model.encode(ids_of(model, PROMPTS), clip_skip=clip_skip), expected)
        assert torch.equal(model.embed(PROMPTS, clip_skip=clip_skip).tokens, expected)


def test_more_layers_than_there_are_cannot_be_skipped(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="2 layers"):
        tiny_model.encode(ids_of(tiny_model, ["a cat"]), clip_skip=2)


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_a_text_of_several_encoders_has_no_encoding_of_ids(tiny: Tiny, family: str) -> None:
    with pytest.raises(BadInput, match="one text encoder"):
        open_model(tiny(family)).encode(torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_soft_tokens_with_the_rows_of_words_are_read_as_these_words(tiny_model: Model, clip_skip: int | None) -> None:
    ids, others = ids_of(tiny_model, ["a red cat", "a red dog"]), ids_of(tiny_model, ["a blue cat", "a blue dog"])
    table: Tensor = token_table(tiny_model.text_encoder).weight
    changed = ids != others
    assert changed.sum() == 2
    soft = SoftTokens(table[others[changed][:1]], torch.where(changed, 0, -1))
    found = tiny_model.encode(ids, clip_skip=clip_skip, soft=soft)
    assert torch.equal(found, tiny_model.encode(others, clip_skip=clip_skip))
    assert torch.equal(tiny_model.encode(others, clip_skip=clip_skip), found)  # the hook is gone
    assert not token_table(tiny_model.text_encoder)._forward_hooks


def test_soft_tokens_receive_the_gradients_of_their_own_places_alone(tiny_model: Model) -> None:
    ids = ids_of(tiny_model, ["a red cat"])
    rows = token_table(tiny_model.text_encoder).weight[[5, 9, 7]].clone().requires_grad_()
    index = torch.full_like(ids, -1)
    index[0, 1], index[0, 2] = 2, 1
    text = encode_ids(tiny_model.text_encoder, ids, soft=SoftTokens(rows, index))
    (gradient,) = torch.autograd.grad(text.square().sum(), rows)
    assert gradient[0].abs().max() == 0
    assert (gradient[1:].abs().amax(1) > 0).all()
