"""P4D-K: a free token before every K tokens of a prompt, under which the edited model predicts as the unedited one.

    min_P  mean | eps_u(x_t, t, T(proj P, prompt)) - eps_o(x_t, t, T(prompt)) |^2,   t ~ U{0 ... 999}

A prompt of L tokens has floor(L / K) + 1 free ones: before tokens 0, K, 2K and so on, and the last after the prompt if
K divides L. The loss, the steps and the images are those of `p4d_n`.

Paper: Chin et al., "Prompting4Debugging", arXiv 2309.06135 (ICML 2024). Reference: https://github.com/joycenerd/P4D,
with K = 3 and 3000 steps. Unlike the reference: as `p4d_n`; and the prompt's tokens are no parameters. The reference
sets their gradients to zero, and their decay changes no cosine similarity, so that they stay the same there too. A
prompt without room for the free tokens is skipped.
"""

from __future__ import annotations

from contextlib import suppress

from pydantic import Field

from efface.attacks.base import Attack, Target, Trial
from efface.attacks.p4d_n import P4DConfig, search_each
from efface.attacks.soft_prompt import SoftPrompt
from efface.errors import BadRequest
from efface.generation.jobs import Job
from efface.models.text.tokens import words_of


class P4DKConfig(P4DConfig):
    """The settings.

    Attributes:
        every_k: Number K of the prompt's tokens after each free one.
    """

    every_k: int = Field(default=3, ge=1)


def search(target: Target, config: P4DKConfig, trial: Trial) -> list[Job]:
    """Search free tokens for each prompt; one image for each `eval_step` steps, on the prompts in turn.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.

    Raises:
        RuntimeError: No prompt has room for the free tokens.
    """
    texts: dict[str, SoftPrompt] = {}
    for prompt in target.prompts:
        words = words_of(target.model.tokenizer, prompt)
        gaps = range(0, words + 1, config.every_k)  # the last gap may be after the prompt
        with suppress(BadRequest):
            texts[prompt] = SoftPrompt(target.model, prompt, len(gaps), gaps, target.clip_skip)
    if not texts:
        raise RuntimeError("no prompt has room for the free tokens")
    return search_each(target, config, trial, texts)


ENTRY = Attack(
    name="p4d_k",
    summary="words spread over a prompt, under which the edited model predicts as the unedited one",
    paper="https://arxiv.org/abs/2309.06135",
    repository="https://github.com/joycenerd/P4D",
    config=P4DKConfig,
    images=lambda config: config.images,
    search=search,
    gradient=True,
)
