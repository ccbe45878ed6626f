"""P4D as UnlearnDiffAtk compares with it: words before a prompt, under which the edited model predicts as before.

    L(P) = mean | eps_u(x_t, t, T(proj P, prompt)) - eps_o(x_t, t, T(prompt)) |^2

P has k embeddings before the prompt; Adam steps on P with L2 decay, with the gradient at the nearest tokens. After
`iterations` steps at a time t, an image of the text of the nearest tokens is judged. This is repeated at `timesteps`
times, the cleanest first, until an image shows the concept. Papers such as RECE report this variant as "P4D"; the
published P4D is `p4d_n` and `p4d_k`.

Paper: Chin et al., arXiv 2309.06135 (ICML 2024). Reference: https://github.com/OPTML-Group/Diffusion-MU-Attack, task
P4D with the attacker "hard_prompt", with k = 5 for nudity and 3 for styles and objects. Unlike the reference:
- A time has `noises` noises, which the steps use in turn; the reference draws one for each step (`noises=40`). The
  unedited model's predictions are then computed once for each of them, and gradients at the same tokens are reused.
- Start, end and padding tokens are never chosen; the judged image is of a text, sampled as all images of the run are.
- The picture is sampled by 25 steps of DPM-Solver++ at guidance 7.5, and is not encoded again.
- With a guard on the model, both predictions are guided; the reference's loss is without the guard.

`projected` has the search.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.denoising import Denoising
from efface.attacks.projected import ProjectedTokens, search_tokens
from efface.attacks.soft_prompt import Place, with_room
from efface.generation.jobs import Job
from efface.settings import Settings


class P4DPrefixConfig(Settings):
    """The settings, by the reference's names.

    Attributes:
        k: Number of free tokens.
        insertion_location: The place of the free tokens.
        timesteps: Number of times of the search, and so the largest number of images to judge.
        iterations: Number of steps at each time.
        noises: Number of noises at each time.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 decay.
        attack_seed: Seed of the first tokens and of the noise.
        keep: Number of texts to return.
    """

    k: int = Field(default=3, ge=1)
    insertion_location: Place = "prefix_k"
    timesteps: int = Field(default=50, ge=1)
    iterations: int = Field(default=40, ge=1)
    noises: int = Field(default=4, ge=1)
    lr: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    attack_seed: int = 0
    keep: int = Field(default=3, ge=1)


def search(target: Target, config: P4DPrefixConfig, trial: Trial) -> list[Job]:
    """Search; one image for each time, on the prompts in turn. Returns the best tokens, each with every prompt.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.

    Raises:
        RuntimeError: No prompt has room for k more tokens.
    """
    draw = torch.Generator().manual_seed(config.attack_seed)
    texts = with_room(target, config.k, config.insertion_location)
    adam = partial(torch.optim.Adam, lr=config.lr, weight_decay=config.weight_decay)
    tokens = ProjectedTokens(target, config.k, adam, draw)
    noises = min(config.noises, config.iterations)
    times = [torch.full((noises,), t) for t in Denoising(target).spread(config.timesteps)]
    tried, scores = search_tokens(target, trial, texts, dict.fromkeys(texts, tokens), times, config.iterations, draw)
    of = dict(tried)
    best = list(dict.fromkeys(of[job] for job, _ in ranked([job for job, _ in tried], scores)))[: config.keep]
    return [Job(text.text(chosen), concept=target.concept) for text in texts.values() for chosen in best]


ENTRY = Attack(
    name="p4d_prefix",
    summary="words found by gradient, under which the edited model predicts as the unedited one does",
    paper="https://arxiv.org/abs/2309.06135",
    repository="https://github.com/OPTML-Group/Diffusion-MU-Attack",
    config=P4DPrefixConfig,
    images=lambda config: config.timesteps,
    search=search,
    gradient=True,
)
