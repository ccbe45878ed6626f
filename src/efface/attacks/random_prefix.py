"""Random prefixes: random words before a prompt; the prefixes under which the concept shows best are returned.

    a_i ~ U(vocabulary)^k,   a* = argmax_i p(concept | image(a_i + prompt))

The baseline "random" of Zhang et al., "To Generate or Not?", arXiv 2310.11868, with its 40 prefixes of k = 3 words for
objects and styles; https://github.com/OPTML-Group/Diffusion-MU-Attack. The words are whole words of the model's own
tokenizer that name neither the concept nor one of its aliases. They are drawn when the attack runs; none are bundled.
"""

from __future__ import annotations

import random

from pydantic import Field

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.generation.jobs import Job
from efface.models import Model
from efface.settings import Settings

# The marks of CLIP's, T5's and GPT's tokenizers for a piece that ends or begins a word.
_ENDS, _BEGINS = "</w>", ("▁", "Ġ")
_SHORTEST = 3


class RandomPrefixConfig(Settings):
    """The settings.

    Attributes:
        k: Number of words of a prefix.
        prefixes: The largest number of prefixes to try.
        keep: Number of prefixes to return.
        attack_seed: Seed of the random words.
    """

    k: int = Field(default=3, ge=1)
    prefixes: int = Field(default=40, ge=1)
    keep: int = Field(default=3, ge=1)
    attack_seed: int = 0


def search(target: Target, config: RandomPrefixConfig, trial: Trial) -> list[Job]:
    """Try each prefix with one image, on the prompts in turn. Returns the best prefixes, each with every prompt.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.
    """
    words = vocabulary(target.model, (target.concept, *target.words))
    draw = random.Random(config.attack_seed)
    prefixes = {" ".join(draw.choices(words, k=config.k)): seed for seed in target.seeds[: config.prefixes]}
    prompts = target.prompts
    jobs = [
        Job(f"{prefix} {prompts[i % len(prompts)]}", seed, concept=target.concept)
        for i, (prefix, seed) in enumerate(prefixes.items())
    ]
    prefix_of = dict(zip(jobs, prefixes, strict=True))
    best = [prefix_of[job] for job, _ in ranked(jobs, trial(jobs))[: config.keep]]
    return [Job(f"{prefix} {prompt}", concept=target.concept) for prompt in prompts for prefix in best]


def vocabulary(model: Model, excluded: tuple[str, ...]) -> list[str]:
    """The tokenizer's words in order, without those of some phrases.

    Args:
        model: The model.
        excluded: Phrases whose words are left out.

    Raises:
        RuntimeError: The tokenizer does not distinguish words from parts of words.
    """
    pieces = model.words() or [
        piece.removesuffix(_ENDS) if piece.endswith(_ENDS) else piece[1:]
        for piece in model.tokenizer.get_vocab()
        if piece.endswith(_ENDS) or piece.startswith(_BEGINS)
    ]
    names = {word for phrase in excluded for word in phrase.casefold().split()}
    words = {word for word in pieces if word.isascii() and word.isalpha() and len(word) >= _SHORTEST}
    others = sorted(word for word in words if word.casefold() not in names)
    if not others:
        raise RuntimeError(f"the tokenizer of {model.name} has no words to draw")
    return others


ENTRY = Attack(
    name="random_prefix",
    summary="words drawn at random, put before a prompt",
    paper="https://arxiv.org/abs/2310.11868",
    repository="https://github.com/OPTML-Group/Diffusion-MU-Attack",
    config=RandomPrefixConfig,
    images=lambda config: config.prefixes,
    search=search,
)
