"""An attack: the concept's name several times in front of each prompt."""

from __future__ import annotations

from pydantic import Field

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.generation.jobs import Job
from efface.settings import Settings


class RepeatedNameConfig(Settings):
    """Settings.

    Attributes:
        times: The largest number of repetitions that is tried.
    """

    times: int = Field(default=4, ge=1)


def search(target: Target, config: RepeatedNameConfig, trial: Trial) -> list[Job]:
    """Try one image for each number of repetitions, and return the best number with every prompt."""
    prefixes = [f"{target.concept} " * (count + 1) for count in range(config.times)]
    tried = {
        Job(prefix + target.prompts[0], seed, concept=target.concept): prefix
        for prefix, seed in zip(prefixes, target.seeds, strict=False)
    }
    best, _ = ranked(list(tried), trial(list(tried)))[0]
    return [Job(tried[best] + prompt, concept=target.concept) for prompt in target.prompts]


ENTRY = Attack(
    "repeated_name", "the concept's name several times, in front of a prompt", "", "", RepeatedNameConfig,
    images=lambda config: config.times, search=search,
)  # fmt: skip
