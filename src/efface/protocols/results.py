"""The result of an evaluation, whatever the protocol, and its form as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.metrics.base import Measured
from efface.protocols.base import Metric
from efface.protocols.plan import BASE, FORGETTING, FailedImage, JudgedImage

#: Erased concept -> destination -> number of images.
Destinations = Mapping[str, Mapping[str, int]]
#: Concept -> bound (`free`, `text`, `ceiling`) -> share; see `efface.eraser.certificate`.
Certificate = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Calibration:
    """How reliable the judge is, measured on images of the unedited model in the same run.

    Attributes:
        name: The judge's name.
        version: The version of its weights and settings.
        recall: How often it finds what was prompted; None if no prompt names what it shows.
        false_positive_rate: How often it finds another concept of the run.
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
    """The result of one eraser or, under the name `base`, of the unedited model.

    Attributes:
        metrics: Rates, then scores and distances, by flat name. A metric without a probe or an answer is missing.
        change: This eraser minus the unedited model, paired by prompt and seed. Empty for the base.
        base: The metrics of the unedited model on exactly this eraser's probes. Empty for the base.
        destinations: By metric (`forget`, `indirect`, `adversarial`) and erased concept, what the images show.
        destinations_before: The same of the unedited model on exactly this eraser's probes. Empty for the base.
        agreement: Share of the answers of `forget` that equal those of the unedited model, where prompts do not name
            what they show.
        errors: Number of images that could not be generated, read or judged; no rate and no score includes them.
        images: The judged images behind the rates, in the plan's order.
        failed_images: The errors among images without a question.
        undecided: By metric, the number of images that the judge is undecided about; no rate includes them.
        attacks: By what made the adversarial prompts, the rate over these alone; `prompts` are given prompts.
        weight_change: |theta' - theta| / (number of parameters); None if no weight changes, and where erasers are not
            ranked.
        err_parts: The names of the rates whose harmonic mean is the overall score.
        certificate: By concept, how far the erasure can be undone; None without a certificate.
    """

    metrics: Mapping[str, Measured]
    change: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    base: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    destinations: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    destinations_before: Mapping[str, Destinations] = field(default_factory=dict[str, Destinations])
    agreement: Measured | None = None
    errors: int = 0
    images: tuple[JudgedImage, ...] = ()
    failed_images: tuple[FailedImage, ...] = ()
    undecided: Mapping[str, int] = field(default_factory=dict[str, int])
    attacks: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    weight_change: float | None = None
    err_parts: tuple[str, ...] = ()
    certificate: Certificate | None = None

    @property
    def concepts(self) -> frozenset[str]:
        """The erased concepts that were asked about."""
        return frozenset(image.probe.concept for image in self.images if image.probe.metric in FORGETTING)

    @property
    def rates(self) -> dict[str, Measured]:
        """The metrics that are shares of answers."""
        return {name: number for name, number in self.metrics.items() if number.kind == "rate"}

    @property
    def scores(self) -> dict[str, Measured]:
        """The metrics that are scores and distances of images."""
        return {name: number for name, number in self.metrics.items() if number.kind == "score"}

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        places = {metric: _plain(counts) for metric, counts in self.destinations.items()}
        return {
            "metrics": _numbers(self.metrics),
            "change": _numbers(self.change),
            "base": _numbers(self.base),
            "went": places.pop("forget", {}),
            "went_by": places,
            "agreement": self.agreement and self.agreement.as_dict(),
            "errors": self.errors,
            "certificate": self.certificate,
            "undecided": dict(self.undecided),
            "attacks": _numbers(self.attacks),
            "weight_change": self.weight_change,
            "err_parts": list(self.err_parts),
        }


@dataclass(frozen=True)
class ErasersCompared:
    """One rate of two erasers.

    Attributes:
        first: The name of one eraser.
        second: The name of the other.
        metric: The rate's flat name.
        difference: The second minus the first, on the same prompts and seeds, with its p-value.
    """

    first: str
    second: str
    metric: str
    difference: Measured

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {"first": self.first, "second": self.second, "metric": self.metric, **self.difference.as_dict()}


@dataclass(frozen=True)
class Evaluation:
    """The result of a protocol.

    Attributes:
        protocol: The protocol's name.
        judge: The judge with its calibration.
        erasers: By name, the result of each eraser; `base` is the unedited model.
        provenance: Model, sampling, erasers, seeds and library versions.
        comparisons: Rates of two erasers on the same prompts and seeds.
        metrics: What the metrics mean, as the protocol declares it.
        overall: The name of the score by which erasers are ranked; empty without one.
        report: The report's page, where one was written.
        folder: Owner of the temporary folder that holds the images, if no folder was given.
    """

    protocol: str
    judge: Calibration
    erasers: Mapping[str, Result]
    provenance: Mapping[str, Any]
    comparisons: tuple[ErasersCompared, ...] = ()
    metrics: tuple[Metric, ...] = ()
    overall: str = ""
    report: Path | None = None
    folder: object = field(default=None, repr=False, compare=False)

    @property
    def errors(self) -> int:
        """Number of images that could not be generated or judged, over all erasers and the base."""
        return sum(result.errors for result in self.erasers.values())

    @property
    def ranking(self) -> tuple[str, ...]:
        """Erasers by the overall score, best first; of equals, the one with the smaller change of weights.

        Empty if the erasers were asked about different concepts, or have scores of different rates.
        """
        ranked = {
            name: result for name, result in self.erasers.items() if name != BASE and self.overall in result.metrics
        }
        comparable = len({(result.concepts, result.err_parts) for result in ranked.values()}) == 1
        return tuple(sorted(ranked, key=self.rank_key)) if comparable else ()

    def rank_key(self, name: str) -> tuple[float, float]:
        """What ranks an eraser, less is better."""
        result = self.erasers[name]
        change = math.inf if result.weight_change is None else result.weight_change
        return -result.metrics[self.overall].value, change

    def to_json(self) -> dict[str, Any]:
        """The object that `efface evaluate --json` prints."""
        return {**self.as_dict(), "report": self.report and str(self.report)}

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as `report.json` stores it."""
        rates = {"recall": self.judge.recall, "false_positive_rate": self.judge.false_positive_rate}
        return {
            "protocol": self.protocol,
            "judge": {
                "name": self.judge.name,
                "version": self.judge.version,
                **{key: rate and rate.value for key, rate in rates.items()},
                "intervals": {key: rate and rate.as_dict() for key, rate in rates.items()},
            },
            "erasers": {name: result.as_dict() for name, result in self.erasers.items()},
            "ranking": list(self.ranking),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
            "provenance": dict(self.provenance),
        }


def _plain(destinations: Destinations) -> dict[str, dict[str, int]]:
    return {concept: dict(counts) for concept, counts in destinations.items()}


def _numbers(metrics: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    return {name: number.as_dict() for name, number in metrics.items()}
