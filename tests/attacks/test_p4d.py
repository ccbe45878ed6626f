"""P4D's three variants against a literal loop with two denoisers in float64."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface.attacks import ATTACKS, Target
from efface.attacks.p4d_k import P4DKConfig
from efface.attacks.p4d_n import P4DNConfig
from efface.attacks.p4d_prefix import P4DPrefixConfig
from efface.attacks.projected import Matching, ProjectedTokens, descend
from efface.attacks.soft_prompt import SoftPrompt, allowed
from efface.errors import BadInput
from efface.models import Model
from efface.tools import latents_of
from support import Trial, the_edit

PROMPT = "a red cat"


def target(model: Model, seeds: range, **erased: Any) -> Target:
    return Target(model, efface.erase(model, "cat", **erased), "cat", (PROMPT,), seeds, latents_of(model))


def literal(aim: Target, config: Any, k: int, gaps: Sequence[int], times: Sequence[Sequence[int]]) -> list[list[int]]:
    """The nearest tokens after each part of the search: both denoisers and the table in float64, both called each step.

    Args:
        aim: What is attacked.
        config: The settings.
        k: Number of free tokens.
        gaps: The index of the prompt's token that each precedes; empty for no prompt.
        times: Timesteps for the steps of each part; empty to draw 1000 as P4D does.
    """
    model = aim.model
    encoder: Any = deepcopy(model.text_encoder).double()
    original: Any = deepcopy(model.denoiser).double()
    edit, words = the_edit(aim.eraser), encoder.get_input_embeddings().weight.detach()
    free = allowed(model).nonzero()[:, 0].tolist()
    draw = torch.Generator().manual_seed(config.attack_seed)
    p = words[[free[i] for i in torch.randint(len(free), (k,), generator=draw).tolist()]].clone()
    prompt = list(model.tokenizer([PROMPT])["input_ids"][0])
    padding = [int(model.tokenizer.pad_token_id)]

    def ids(row: list[int]) -> Tensor:
        return torch.tensor([row + padding * (model.max_tokens - len(row))])

    places = [1 + gap + slot for slot, gap in enumerate(gaps)] if gaps else list(range(1, k + 1))
    inner = list(prompt[1:-1]) if gaps else []
    z0 = latents_of(model)(PROMPT, [aim.seeds[0]], steps=25, guidance=7.5, sampler="dpm++").double()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bars = (1 - betas).cumprod(0)
    adam = torch.optim.AdamW if isinstance(config, P4DNConfig | P4DKConfig) else torch.optim.Adam
    optimizer = adam([p], lr=config.lr, weight_decay=config.weight_decay)

    def nearest() -> list[int]:
        similarities = torch.nn.functional.cosine_similarity(p[:, None], words[None, free], dim=-1)
        return [free[i] for i in similarities.argmax(1).tolist()]

    if not times:
        times = [torch.randint(1000, (config.eval_step,), generator=draw).tolist() for _ in aim.seeds]
    steps = config.iterations if isinstance(config, P4DPrefixConfig) else config.eval_step
    after: list[list[int]] = []
    for some in times:
        noises = torch.randn((len(some), *z0.shape[1:]), generator=draw).double()
        for step in range(steps):
            t, noise = some[step % len(some)], noises[[step % len(some)]]
            row = [prompt[0], *inner, prompt[-1]]
            for place, token in zip(places, nearest(), strict=True):
                row.insert(place, token)
            leaf = words[nearest()].requires_grad_()

            def replaced(module: Any, given: Any, output: Tensor, leaf: Tensor = leaf) -> Tensor:
                return output.index_copy(1, torch.tensor(places), leaf[None])

            hook = encoder.get_input_embeddings().register_forward_hook(replaced)
            text = encoder(ids(row))[0]
            hook.remove()
            text = text + (text @ edit.right) @ edit.left.T  # the edited keys and values read the edited text
            noisy = bars[t].sqrt() * z0 + (1 - bars[t]).sqrt() * noise
            predicted = original(noisy, t, encoder_hidden_states=text).sample
            with torch.no_grad():
                wanted = original(noisy, t, encoder_hidden_states=encoder(ids(list(prompt)))[0]).sample
            (p.grad,) = torch.autograd.grad((predicted - wanted).square().mean(), [leaf])
            optimizer.step()
        after.append(nearest())
    return after


CASES: dict[str, tuple[Any, int, tuple[int, ...], list[list[int]]]] = {
    "p4d_prefix": (P4DPrefixConfig(k=2, timesteps=2, iterations=4, noises=3), 2, (0, 0), [[250] * 3, [750] * 3]),
    "p4d_n": (P4DNConfig(prompt_len=3, iter=8, eval_step=4), 3, (), []),
    "p4d_k": (P4DKConfig(every_k=1, iter=8, eval_step=4), 4, (0, 1, 2, 3), []),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loop_with_two_denoisers(tiny_model: Model, name: str) -> None:
    config, k, gaps, times = CASES[name]
    aim, trial = target(tiny_model, range(5, 7), to="dog"), Trial(0.1, 0.2)
    ATTACKS.get(name).search(aim, config, trial)
    soft = SoftPrompt(tiny_model, PROMPT if gaps else "", k, gaps or "prefix_k")
    assert [job.prompt for job in trial.jobs] == [soft.text(row) for row in literal(aim, config, k, gaps, times)]


def test_the_gradient_is_that_of_float64(tiny_model: Model) -> None:
    """One step of plain descent, so that the embeddings show the gradient itself."""
    aim = target(tiny_model, range(5, 6), to="dog")
    matching, draw = Matching(aim), torch.Generator().manual_seed(0)
    soft = SoftPrompt(tiny_model, PROMPT, 2, "prefix_k")
    expected = matching.expected(PROMPT, torch.tensor([300]), draw)
    tokens = ProjectedTokens(aim, 2, lambda some: torch.optim.SGD(some, lr=1.0), draw)
    chosen = tokens.chosen
    with aim.eraser.attach(tiny_model):
        gradient = matching.gradient(expected, 0, soft, chosen, tokens.nearest(chosen))
        step = torch.randn(gradient.shape, generator=draw) * 2e-3

        def loss(sign: int) -> float:
            with torch.no_grad():
                text = soft.encode(chosen, tokens.nearest(chosen) + sign * step)
                found = tiny_model.denoiser(expected.noisy, torch.tensor([300]), encoder_hidden_states=text).sample
            return float((found.double() - expected.predictions.double()).square().mean())

        slope = (loss(1) - loss(-1)) / 2
    assert slope == pytest.approx(float((gradient * step).sum()), rel=0.05, abs=1e-7)


def test_a_gradient_at_the_same_tokens_and_noise_is_computed_once(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    aim = target(tiny_model, range(5, 6))
    matching, draw = Matching(aim), torch.Generator().manual_seed(0)
    tokens = ProjectedTokens(aim, 2, lambda some: torch.optim.SGD(some, lr=1e-12), draw)
    expected = matching.expected(PROMPT, torch.tensor([300, 300]), draw)
    calls: list[int] = []
    plain = Matching.gradient
    monkeypatch.setattr(Matching, "gradient", lambda *given: calls.append(given[2]) or plain(*given))
    with aim.eraser.attach(tiny_model):
        descend(matching, tokens, SoftPrompt(tiny_model, PROMPT, 2, "prefix_k"), expected, 6)
    assert calls == [0, 1]


def test_it_stops_where_the_concept_is_back(tiny_model: Model) -> None:
    from dataclasses import replace

    for name, (config, *_) in CASES.items():
        trial = Trial(0.8, 0.9)
        aim = replace(target(tiny_model, range(2)), enough=0.7)
        assert ATTACKS.get(name).search(aim, config, trial)[0].prompt == trial.jobs[0].prompt
        assert len(trial.jobs) == 1


def test_published_budgets() -> None:
    assert [ATTACKS.get(name).images(ATTACKS.get(name).config()) for name in CASES] == [50, 60, 60]


@pytest.mark.parametrize("name", CASES)
def test_settings_are_checked(name: str) -> None:
    for wrong in ({"lr": 0.0}, {"weight_decay": -1.0}, {"keep": 0}):
        with pytest.raises(BadInput):
            ATTACKS.get(name).config.model_validate(wrong)
