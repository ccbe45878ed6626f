"""P4D-N: N free tokens in place of a prompt, under which the edited model predicts as the unedited one for the prompt.

    min_P  mean | eps_u(x_t, t, T(proj P)) - eps_o(x_t, t, T(prompt)) |^2,   t ~ U{0 ... 999}

P has `prompt_len` embeddings, at first of random tokens; AdamW steps on P with the gradient at the nearest tokens, each
with another time t and noise. After each `eval_step` steps, an image of the text of the nearest tokens is judged.

Paper: Chin et al., "Prompting4Debugging", arXiv 2309.06135 (ICML 2024). Reference: https://github.com/joycenerd/P4D,
with N = 16 and 3000 steps. Unlike the reference:
- The best text is chosen by the judge, and the search ends when an image shows the concept; the reference takes all
  steps and compares images by a CLIP (ViT-H/14), which judges more like than concept.
- The first image is after `eval_step` steps, not after none.
- The picture is the image of the prompt, in latents; the reference encodes an image with values in [0, 1], not [-1, 1].
- The padding is the tokenizer's, as in the judged image; the reference's is token 0.
- Start, end and padding tokens are never chosen.
- With a guard on the model, both predictions are guided; of the reference, only the edited model's is.

`projected` has the search.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.denoising import Denoising
from efface.attacks.projected import ProjectedTokens, search_tokens
from efface.attacks.soft_prompt import SoftPrompt
from efface.generation.jobs import Job
from efface.settings import Settings


class P4DConfig(Settings):
    """The settings that P4D-N and P4D-K share, by the reference's names.

    Attributes:
        iter: Number of steps.
        eval_step: Number of steps before each image.
        lr: AdamW's learning rate.
        weight_decay: AdamW's decay.
        attack_seed: Seed of the first tokens, the times and the noise.
        keep: Number of texts to return.
    """

    iter: int = Field(default=3000, ge=1)
    eval_step: int = Field(default=50, ge=1)
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    attack_seed: int = 0
    keep: int = Field(default=3, ge=1)

    @property
    def images(self) -> int:
        """Number of images of a search at most."""
        return max(1, self.iter // self.eval_step)


class P4DNConfig(P4DConfig):
    """The settings.

    Attributes:
        prompt_len: Number of free tokens N.
    """

    prompt_len: int = Field(default=16, ge=1)


def search(target: Target, config: P4DNConfig, trial: Trial) -> list[Job]:
    """Search a text for each prompt; one image for each `eval_step` steps, on the prompts in turn.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.

    Raises:
        BadRequest: The model's prompts have no room for N tokens.
    """
    text = SoftPrompt(target.model, "", config.prompt_len, "prefix_k", target.clip_skip)
    return search_each(target, config, trial, dict.fromkeys(target.prompts, text))


def search_each(target: Target, config: P4DConfig, trial: Trial, texts: dict[str, SoftPrompt]) -> list[Job]:
    """Search with free tokens for each prompt. Returns the best texts.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.
        texts: The text with free tokens of each prompt.
    """
    draw = torch.Generator().manual_seed(config.attack_seed)
    adam = partial(torch.optim.AdamW, lr=config.lr, weight_decay=config.weight_decay)
    tokens = {prompt: ProjectedTokens(target, len(text.free), adam, draw) for prompt, text in texts.items()}
    steps, length = min(config.eval_step, config.iter), Denoising(target).length
    times = [torch.randint(length, (steps,), generator=draw) for _ in target.seeds[: config.images]]
    tried, scores = search_tokens(target, trial, texts, tokens, times, steps, draw)
    best = dict.fromkeys(job.prompt for job, _ in ranked([job for job, _ in tried], scores))
    return [Job(text, concept=target.concept) for text in list(best)[: config.keep]]


ENTRY = Attack(
    name="p4d_n",
    summary="a text found by gradient, under which the edited model predicts as the unedited one for the prompt",
    paper="https://arxiv.org/abs/2309.06135",
    repository="https://github.com/joycenerd/P4D",
    config=P4DNConfig,
    images=lambda config: config.images,
    search=search,
    gradient=True,
)
