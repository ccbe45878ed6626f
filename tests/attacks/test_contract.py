"""The contract of attacks: these tests run for each registered one."""

from dataclasses import replace
from typing import Any

import pytest

import efface
from efface import BadInput
from efface.attacks import ATTACKS, DEFAULT, Attack, Target
from efface.generation import Sampling, sample
from efface.models import Model
from efface.settings import Settings
from efface.tools import latents_of
from support import Trial, parameters, same

PROMPTS = ("a cat", "a picture of a cat")
SEEDS = range(1000, 1012)
#: Settings with which a search is short; the others have the published ones.
QUICK: dict[str, dict[str, Any]] = {
    "unlearndiff": {"iterations": 1},
    "inversion": {"steps": 4, "batch_size": 1, "images": 2, "checks": 2, "initializer_token": "dog"},
    "ring_a_bell": {"population_size": 8, "generation": 3, "length": 4},
    "p4d_prefix": {"iterations": 2},
    "p4d_n": {"iter": 24, "eval_step": 2, "prompt_len": 4},
    "p4d_k": {"iter": 24, "eval_step": 2},
}


@pytest.fixture
def target(tiny_model: Model) -> Target:
    eraser = efface.erase(tiny_model, "cat", "dog")
    return Target(tiny_model, eraser, "cat", PROMPTS, SEEDS, latents_of(tiny_model), ("red bird",))


@pytest.fixture(params=ATTACKS.names())
def attack(request: pytest.FixtureRequest) -> Attack:
    return ATTACKS.get(request.param)


def quick(attack: Attack) -> Settings:
    return attack.config.model_validate(QUICK.get(attack.name, {}))


def test_the_default_attacks_are_registered() -> None:
    assert set(DEFAULT) <= set(ATTACKS.names())


def test_its_entry_is_complete(attack: Attack) -> None:
    assert ATTACKS.get(attack.name) is attack
    assert attack.summary
    assert len(attack.summary) < 120
    assert attack.paper.startswith("https://") or not attack.paper
    assert attack.images(attack.config()) > 0


def test_it_draws_at_most_one_image_a_seed_and_gives_prompts(attack: Attack, target: Target) -> None:
    trial = Trial(by=lambda job: 0.5)
    prompts = attack.search(target, quick(attack), trial)
    assert prompts
    assert all(job.concept == "cat" for job in prompts)
    seeds = [job.seed for job in trial.jobs]
    assert set(seeds) <= set(SEEDS)
    assert len(set(seeds)) == len(seeds)
    assert any(job.embedding for job in prompts) is attack.embeds
    assert prompts == attack.search(target, quick(attack), Trial(by=lambda job: 0.5)), (
        "the same search finds the same prompts"
    )


def test_one_image_is_enough_for_a_search(attack: Attack, target: Target) -> None:
    trial = Trial(by=lambda job: 0.5)
    assert attack.search(replace(target, seeds=range(5, 6)), quick(attack), trial)
    assert [job.seed for job in trial.jobs] == [5]


def test_an_image_without_a_score_is_passed_over_and_a_search_without_any_fails(attack: Attack, target: Target) -> None:
    assert attack.search(target, quick(attack), Trial(by=lambda job: float("nan") if job.seed % 2 else 0.5))
    with pytest.raises(RuntimeError, match="no image of its search has a verdict"):
        attack.search(target, quick(attack), Trial(by=lambda job: float("nan")))


def test_its_prompts_can_be_drawn_and_the_model_is_unchanged(attack: Attack, target: Target) -> None:
    before = parameters(target.model.denoiser)
    plain = target.model.embed(PROMPTS).tokens
    prompts = attack.search(target, quick(attack), Trial(by=lambda job: 0.5))
    drawn = [pixels for _, pixels in sample(target.model, prompts[:2], Sampling(steps=2), target.eraser)]
    assert all(pixels is not None for pixels in drawn)
    assert target.model.embed(PROMPTS).tokens.equal(plain)
    assert same(parameters(target.model.denoiser), before)


def test_bad_settings_are_refused_in_one_line(attack: Attack) -> None:
    for options in ({"no_such_setting": 1}, *({field: float("nan")} for field in attack.config.model_fields)):
        with pytest.raises(BadInput) as caught:
            attack.config.model_validate(options)
        assert "\n" not in str(caught.value)
        assert next(iter(options)) in str(caught.value)


def test_a_model_or_eraser_that_it_cannot_attack_is_refused_in_one_line(attack: Attack, tiny_model: Model) -> None:
    for method in ("uce", "sld", "negative"):
        eraser = efface.erase(tiny_model, "cat", method=method)
        reason = attack.unfit(tiny_model, eraser)
        if reason is None:
            attack.check_fit(tiny_model, eraser)
            continue
        assert "\n" not in reason
        with pytest.raises(BadInput, match=f"The attack '{attack.name}'"):
            attack.check_fit(tiny_model, eraser)
