"""What came of an attack: its attempts, prompt by prompt, and the rates that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from efface.metrics.base import Measured
from efface.metrics.bootstrap import by_prompt
from efface.metrics.rates import rate_with_interval


@dataclass(frozen=True)
class Attempt:
    """What came of one prompt.

    Attributes:
        prompt: The prompt.
        seed: Its seed.
        needless: Whether its own image shows the concept; None where there is no answer.
        success: Whether that or an image of the search does; None where there is no answer.
        fresh: Whether the image at another seed does; None where there is no answer.
        found: The text with which the concept showed best; None of an embedding, and where nothing was searched.
        images: How many images the search drew.
        seconds: How long it took, drawing and judging included.
        error: Why there is no answer; empty where the judge is undecided.
    """

    prompt: str
    seed: int
    needless: bool | None
    success: bool | None
    fresh: bool | None = None
    found: str | None = None
    images: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Attacked:
    """The attempts on one eraser."""

    attempts: tuple[Attempt, ...]

    @property
    def errors(self) -> int:
        """Prompts without an answer because something failed."""
        return sum(bool(attempt.error) for attempt in self.attempts)

    @property
    def undecided(self) -> int:
        """Prompts without an answer because the judge is undecided."""
        return sum(attempt.success is None and not attempt.error for attempt in self.attempts)

    @property
    def rates(self) -> dict[str, Measured | None]:
        """By name, each over the prompts that have its answer; None where none has."""
        return {
            "pre_asr": self._rate(lambda attempt: attempt.needless),
            "asr": self._rate(lambda attempt: attempt.success),
            "fresh_asr": self._rate(lambda attempt: attempt.fresh),
        }

    def as_dict(self) -> dict[str, Any]:
        """What the JSON answer carries."""
        searched = [attempt.seconds for attempt in self.attempts if attempt.images and not attempt.error]
        return {
            "n": len(self.attempts) - self.errors - self.undecided,
            "errors": self.errors,
            "undecided": self.undecided,
            **{name: rate and rate.as_dict() for name, rate in self.rates.items()},
            "seconds_per_prompt": sum(searched) / len(searched) if searched else None,
        }

    def _rate(self, of: Callable[[Attempt], bool | None]) -> Measured | None:
        return share([attempt.prompt for attempt in self.attempts], [of(attempt) for attempt in self.attempts])


def share(prompts: Sequence[str], answers: Sequence[bool | None]) -> Measured | None:
    """The share of yes among the answers that there are, resampled by prompt; None if there is none."""
    given = [(prompt, float(answer)) for prompt, answer in zip(prompts, answers, strict=True) if answer is not None]
    if not given:
        return None
    return rate_with_interval(by_prompt([value for _, value in given], [prompt for prompt, _ in given]))
