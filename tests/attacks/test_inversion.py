"""Concept inversion against a literal loop, and that it learns what the model denoises by."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface.attacks import Target
from efface.attacks.denoising import Denoising
from efface.attacks.inversion import InversionConfig, search
from efface.models import Model
from efface.tools import latents_of
from support import Trial

PROMPTS = ("a red cat", "a cat")
FEW: dict[str, Any] = {"steps": 6, "batch_size": 2, "images": 3, "checks": 3, "initializer_token": "dog"}


def target(model: Model, seeds: range = range(5, 8), prompts: tuple[str, ...] = PROMPTS, **erased: Any) -> Target:
    return Target(model, efface.erase(model, "cat", "horse", **erased), "cat", prompts, seeds, latents_of(model))


def literal(model: Model, eraser: efface.Eraser, config: InversionConfig, prompt: str) -> Tensor:
    """v after all steps of one prompt, "... cat": its id's row of the table is the parameter, AdamW by hand."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    schedule: Any = DDPMScheduler.from_config(dict(model.scheduler_config))
    x0 = latents_of(model)(prompt, range(5, 5 + config.images), steps=25, guidance=7.5, sampler="dpm++")
    encoder: Any = model.text_encoder
    ids = torch.tensor(model.tokenizer([prompt], padding="max_length", max_length=model.max_tokens)["input_ids"])
    cat = int(model.tokenizer(["cat"])["input_ids"][0][1])
    rows = encoder.get_input_embeddings().weight.requires_grad_()
    original, v = rows.detach().clone(), rows.detach()[int(model.tokenizer(["dog"])["input_ids"][0][1])]
    first, second, draw = torch.zeros_like(v), torch.zeros_like(v), torch.Generator().manual_seed(config.attack_seed)
    for step in range(1, config.steps + 1):
        chosen = torch.randint(config.images, (config.batch_size,), generator=draw)
        t = torch.randint(1000, (config.batch_size,), generator=draw)
        noise = torch.randn(x0[chosen].shape, generator=draw)
        bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            rows[cat] = v
        with eraser.attach(model, force=True):
            text = encoder(ids)[0].expand(config.batch_size, -1, -1)
            noisy = bar.sqrt() * x0[chosen] + (1 - bar).sqrt() * noise
            loss = (model.denoiser(noisy, t, encoder_hidden_states=text).sample - noise).square().mean()
        (gradient,) = torch.autograd.grad(loss, [rows])
        g = gradient[cat]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        v = v * (1 - config.lr * config.weight_decay)
        v = v - config.lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    with torch.no_grad():
        rows[cat] = v
        text = encoder(ids)[0][0]
        rows.copy_(original).requires_grad_(False)
    return text


def test_it_is_a_literal_loop_on_the_table_of_embeddings(tiny_model: Model) -> None:
    config = InversionConfig.model_validate(FEW)
    aim = target(tiny_model, prompts=PROMPTS[:1])
    trial = Trial(0.1, 0.2, 0.3)
    (found,) = search(aim, config, trial)
    expected = literal(tiny_model, aim.eraser, config, PROMPTS[0])
    assert found.embedding is not None
    torch.testing.assert_close(found.embedding.tokens, expected, atol=1e-4, rtol=1e-3)
    assert found.embedding == trial.jobs[-1].embedding


def test_the_word_of_the_best_image_goes_into_every_prompt(tiny_model: Model) -> None:
    trial = Trial(0.1, 0.9, 0.3)
    found = search(target(tiny_model), InversionConfig.model_validate(FEW), trial)
    assert [job.prompt for job in trial.jobs] == [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    assert [job.prompt for job in found] == list(PROMPTS)
    assert found[1].embedding == trial.jobs[1].embedding


def test_it_learns_what_the_edited_model_denoises_by(tiny_model: Model) -> None:
    config = InversionConfig.model_validate(FEW | {"steps": 60, "batch_size": 4, "lr": 0.02, "checks": 1})
    aim = target(tiny_model, range(5, 6), PROMPTS[:1])
    (found,) = search(aim, config, Trial(0.5))
    denoising, draw = Denoising(aim), torch.Generator().manual_seed(77)
    pictures = denoising.pictures(PROMPTS[0], 3).repeat(20, 1, 1, 1)
    times = torch.randint(1000, (len(pictures),), generator=draw)
    noise = torch.randn(pictures.shape, generator=draw)
    assert found.embedding is not None
    start = tiny_model.embed(["a red dog"]).tokens
    texts = (found.embedding.tokens[None], start)
    with torch.no_grad(), aim.eraser.attach(tiny_model):
        learnt, before = (float(denoising.loss(text, pictures, times, noise)) for text in texts)
    assert learnt < before


def test_a_prompt_that_does_not_name_the_concept_has_the_word_before_it(tiny_model: Model) -> None:
    config = InversionConfig.model_validate(FEW | {"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    (found,) = search(target(tiny_model, prompts=("a red bird",)), config, Trial(0.5))
    assert found.embedding is not None
    expected = tiny_model.embed(["dog a red bird"]).tokens[0]
    torch.testing.assert_close(found.embedding.tokens, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "read"), [("cat and a cat", "dog and a"), ("a blue cat in a house", "a blue dog in a house")]
)
def test_the_word_stands_where_the_name_was_and_the_name_is_gone(tiny_model: Model, prompt: str, read: str) -> None:
    config = InversionConfig.model_validate(FEW | {"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    (found,) = search(target(tiny_model, prompts=(prompt,)), config, Trial(0.5))
    assert found.embedding is not None
    torch.testing.assert_close(found.embedding.tokens, tiny_model.embed([read]).tokens[0], atol=1e-5, rtol=1e-5)


def test_it_stops_where_the_concept_is_back(tiny_model: Model) -> None:
    trial = Trial(0.2, 0.9)
    search(replace(target(tiny_model), enough=0.8), InversionConfig.model_validate(FEW), trial)
    assert len(trial.jobs) == 2
