"""What an evaluation asks and what it answers, whatever the protocol.

A protocol makes a plan of probes for each eraser; every probe is one image and one question to the judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from typing import Protocol as Interface

from efface.generate.jobs import Job, Progress, Sampling
from efface.metrics.base import Measured, Value
from efface.metrics.rates import Rate
from efface.protocols.published import Published

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.judges import Judge
    from efface.models import Model
    from efface.protocols.comparing import ErasersCompared
    from efface.protocols.inputs import Inputs, Reads
    from efface.request import Request
    from efface.settings import Settings

#: Where an image that was prompted for an erased concept went.
Destination = Literal["concept", "undecided", "guide", "other", "nothing", "broken", "error"]
DESTINATIONS: tuple[Destination, ...] = get_args(Destination)

#: The rates at which a concept shall be absent; in all others it shall be found.
FORGETTING = frozenset({"forget", "indirect", "adversarial"})

BASE = "base"
#: Erased concept -> destination -> images.
Destinations = Mapping[str, Mapping[str, int]]
Certificate = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Probe:
    """One image to make and one question about it.

    Attributes:
        metric: The rate that the answer counts for (`forget`, `retain`, `adjacent`, `indirect`, `adversarial`).
        concept: What the judge is asked to find.
        job: How the image is made.
        guide: What the concept was erased towards, if the probe is about an erased concept.
        attack: Of an adversarial probe, the attack that found its prompt; `None` where the prompt was given.
        further: One more question about an image that another probe asks whether it is forgotten: an ideal eraser's
            shows this no more, and the report tells of the image once.
    """

    metric: str
    concept: str
    job: Job
    guide: str | None = None
    attack: str | None = None
    further: bool = False

    @property
    def wanted(self) -> bool:
        """Whether an ideal eraser's image shows the concept."""
        return not self.further and self.metric not in FORGETTING


@dataclass(frozen=True)
class Shot:
    """A probe's image and the judge's answer.

    Attributes:
        probe: What was asked.
        path: The image; `None` where it could not be made.
        found: Whether the judge found the concept; `None` on an error, and where the judge is undecided.
        score: The judge's score for the concept; NaN on an error.
        saw: The best thing the judge recognised, among those that it was asked for; `None` for nothing.
        went: For probes of erased concepts, where the image went.
        error: Why there is no answer.
    """

    probe: Probe
    path: Path | None
    found: bool | None
    score: float
    saw: str | None = None
    went: Destination | None = None
    error: str | None = None

    @property
    def undecided(self) -> bool:
        """Whether the judge has seen the image and says neither yes nor no."""
        return self.found is None and self.error is None

    @property
    def good(self) -> float:
        """1 if the answer is the one that an ideal eraser gives, else 0; only for shots with an answer."""
        return float(self.found is self.probe.wanted)


@dataclass(frozen=True)
class Unread:
    """An image without a question that could not be made or read, so that no score counts it.

    Attributes:
        job: How it was to be made.
        error: Why.
    """

    job: Job
    error: str


@dataclass(frozen=True)
class Calibration:
    """How far the judge can be trusted, measured on images of the unedited model in the same run.

    Attributes:
        name: The judge's name.
        version: Of its weights and settings.
        recall: How often it finds what was prompted; `None` where no prompt says what it shows.
        false_positive_rate: How often it finds something else that it is asked for.
    """

    name: str
    version: str
    recall: Rate | None
    false_positive_rate: Rate | None


@dataclass(frozen=True)
class Result:
    """What one eraser did, or under the name `base` the unedited model.

    Attributes:
        metrics: By flat name; a metric without a probe or an answer is left out, never invented.
        change: Paired with the base by prompt and seed: this minus base. Empty for the base.
        base: The same metrics of the unedited model on exactly this eraser's probes. Empty for the base.
        went: Erased concept -> destination -> images, over the `forget` probes.
        went_before: The same of the unedited model on exactly this eraser's probes. Empty for the base.
        went_by: The same as `went` over the probes of each other forget rate: `indirect`, `adversarial`.
        went_by_before: The same of the unedited model on exactly this eraser's probes. Empty for the base.
        agreement: Share of `forget`'s answers that are the unedited model's too, where prompts do not say what they
            show.
        errors: Images that could not be made, read or judged; no rate and no score counts them.
        shots: Everything behind the rates, in the plan's order.
        unread: Those of the errors that no shot tells of.
        undecided: By metric, shots in which the judge found neither, if there are any; no rate counts them.
        attacks: What made the adversarial probes -> the rate over them alone; `prompts` are those that were given.
        weight_change: |theta' - theta| / (number of parameters), the challenge's; `None` where no weight changes.
        scores: By flat name, what is no rate of verdicts: scores and distances of the images.
        err_parts: What `err` is the harmonic mean of, if there is one.
    """

    metrics: Mapping[str, Rate]
    change: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    base: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    went: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    went_before: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    went_by: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    went_by_before: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    agreement: Rate | None = None
    errors: int = 0
    shots: tuple[Shot, ...] = ()
    unread: tuple[Unread, ...] = ()
    undecided: Mapping[str, int] = field(default_factory=dict[str, int])
    attacks: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    weight_change: float | None = None
    scores: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    err_parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A protocol's answer.

    Attributes:
        protocol: Its name.
        judge: Name, version and calibration.
        results: By eraser name; `base` is the unedited model.
        provenance: Model, samplings, erasers, seeds and library versions.
        certificates: Eraser name -> concept -> `free`, `text`, `ceiling` (see `efface.certificate`), where one holds.
        comparisons: Two erasers' rates on the same prompts and seeds, the second minus the first.
    """

    protocol: str
    judge: Calibration
    results: Mapping[str, Result]
    provenance: Mapping[str, Any]
    certificates: Mapping[str, Certificate] = field(default_factory=dict[str, Certificate])
    comparisons: tuple[ErasersCompared, ...] = ()

    @property
    def errors(self) -> int:
        """Shots that could not be made or judged, over all erasers and the base."""
        return sum(result.errors for result in self.results.values())

    def as_dict(self) -> dict[str, Any]:
        """What `efface evaluate --json` prints and `report.json` holds."""
        told = {"recall": self.judge.recall, "false_positive_rate": self.judge.false_positive_rate}
        return {
            "protocol": self.protocol,
            "judge": {
                "name": self.judge.name,
                "version": self.judge.version,
                **{key: rate and rate.value for key, rate in told.items()},
                "intervals": {key: rate and rate.as_dict() for key, rate in told.items()},
            },
            "erasers": {
                name: {
                    "metrics": _numbers(result.metrics, {key: m.value for key, m in result.scores.items()}),
                    "change": _numbers(result.change, {key: m.change for key, m in result.scores.items()}),
                    "base": _numbers(result.base, {key: m.base for key, m in result.scores.items()}),
                    "went": _counts(result.went),
                    "went_by": {metric: _counts(went) for metric, went in result.went_by.items()},
                    "agreement": result.agreement and result.agreement.as_dict(),
                    "errors": result.errors,
                    "certificate": self.certificates.get(name),
                    "undecided": dict(result.undecided),
                    "attacks": {attack: rate.as_dict() for attack, rate in result.attacks.items()},
                    "weight_change": result.weight_change,
                    "err_parts": list(result.err_parts),
                }
                for name, result in self.results.items()
            },
            "ranking": list(ranking(self.results)),
            "comparisons": [compared.as_dict() for compared in self.comparisons],
            "provenance": dict(self.provenance),
        }


class Evaluate(Interface):
    """The function of a protocol; see `efface.protocols.err.evaluate` for its arguments."""

    def __call__(
        self,
        model: Model,
        erasers: Mapping[str, Eraser],
        judge: Judge,
        *,
        out: Path,
        n: int = ...,
        sampling: Sampling | None = ...,
        request: Request | None = ...,
        seed: int = ...,
        progress: Progress | None = ...,
        inputs: Inputs | None = ...,
    ) -> Evaluation: ...


@dataclass(frozen=True)
class Protocol:
    """One named evaluation, as the registry holds it.

    Attributes:
        name: What it is called on the command line.
        summary: One line for `efface protocols`.
        paper: Where it comes from.
        metrics: The flat names of the rates, scores and distances that it can give.
        evaluate: Runs it.
        n: Images a concept, or what else it says that `n` counts, where none is given.
        judged: Whether it asks a judge at all.
        reads: Which of `--prompts` and `--data` it reads.
        config: Its own settings, if it has any.
        published: How the paper's images were sampled, where that is known.
    """

    name: str
    summary: str
    paper: str
    metrics: tuple[str, ...]
    evaluate: Evaluate
    n: int = 100
    judged: bool = True
    reads: tuple[Reads, ...] = ()
    config: type[Settings] | None = None
    published: Published | None = None


def rank_key(result: Result) -> tuple[int, float, float]:
    """What ranks a result with an `err`, less is better: a mean of fewer rates is no match for one of more."""
    change = result.weight_change
    return -len(result.err_parts), -result.metrics["err"].value, math.inf if change is None else change


def ranking(results: Mapping[str, Result]) -> tuple[str, ...]:
    """Erasers by `err`, best first, as the challenge ranks them: of equals, the smaller change of weights wins."""
    scored = [name for name, result in results.items() if name != BASE and "err" in result.metrics]
    return tuple(sorted(scored, key=lambda name: rank_key(results[name])))


def _counts(went: Destinations) -> dict[str, dict[str, int]]:
    return {concept: dict(counts) for concept, counts in went.items()}


def _numbers(rates: Mapping[str, Rate], scores: Mapping[str, Value | None]) -> dict[str, dict[str, Any]]:
    """Rates and scores under one roof, as JSON carries them; of the scores, those that there are."""
    return {name: number.as_dict() for name, number in (*rates.items(), *scores.items()) if number}
