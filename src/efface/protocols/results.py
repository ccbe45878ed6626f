"""What an evaluation answers, whatever the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from efface.metrics.base import Measured
from efface.protocols.base import BASE, Shot, Unread

if TYPE_CHECKING:
    from efface.protocols.comparing import ErasersCompared

#: Erased concept -> destination -> images.
Destinations = Mapping[str, Mapping[str, int]]
Certificate = Mapping[str, Mapping[str, float | None]]


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
    recall: Measured | None
    false_positive_rate: Measured | None

    def as_dict(self) -> dict[str, Any]:
        """The calibration as JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "recall": self.recall and self.recall.as_dict(),
            "false_positive_rate": self.false_positive_rate and self.false_positive_rate.as_dict(),
        }


@dataclass(frozen=True)
class Result:
    """What one eraser did, or under the name `base` the unedited model.

    Attributes:
        metrics: Rates, then scores and distances, by flat name; a metric without a probe or an answer is left out.
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
        err_parts: What `err` is the harmonic mean of, if there is one.
    """

    metrics: Mapping[str, Measured]
    change: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    base: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    went: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    went_before: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    went_by: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    went_by_before: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    agreement: Measured | None = None
    errors: int = 0
    shots: tuple[Shot, ...] = ()
    unread: tuple[Unread, ...] = ()
    undecided: Mapping[str, int] = field(default_factory=dict[str, int])
    attacks: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    weight_change: float | None = None
    err_parts: tuple[str, ...] = ()

    @property
    def rates(self) -> dict[str, Measured]:
        """The metrics that are shares of answers."""
        return {name: number for name, number in self.metrics.items() if number.kind == "rate"}

    @property
    def scores(self) -> dict[str, Measured]:
        """The metrics that are scores and distances of images."""
        return {name: number for name, number in self.metrics.items() if number.kind == "score"}


@dataclass(frozen=True)
class Evaluation:
    """A protocol's answer.

    Attributes:
        protocol: Its name.
        judge: Name, version and calibration.
        results: By eraser name; `base` is the unedited model.
        provenance: Model, samplings, erasers, seeds and library versions.
        certificates: By eraser and concept, `free`, `text`, `ceiling` (`efface.eraser.certificate`), where one holds.
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
                    "metrics": _numbers(result.metrics),
                    "change": _numbers(result.change),
                    "base": _numbers(result.base),
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


def _numbers(metrics: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    return {name: number.as_dict() for name, number in metrics.items()}
