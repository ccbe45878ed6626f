"""What `efface evaluate` and `efface demo` share: running a protocol, and telling people the numbers."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadInput
from efface.files import sha256_of_file
from efface.protocols.inputs import Inputs
from efface.report.verdict import erased_by, verdict
from efface.report.words import chance, interval, percent

if TYPE_CHECKING:
    from efface.cli.output import Screen
    from efface.eraser.eraser import Eraser
    from efface.generation import Sampling
    from efface.judges import Judge
    from efface.metrics.base import Measured
    from efface.models import Model
    from efface.protocols import Evaluation, Result
    from efface.protocols.results import Destinations
    from efface.request.record import Request


@dataclass(frozen=True)
class Wish:
    """What is asked of an evaluation, beside the model and the erasers.

    Attributes:
        protocol: Its name.
        judge: As in `--judge`; `None` is nobody, for protocols that ask no judge.
        n: Images a concept, or whatever the protocol counts.
        seed: Of the first image.
        sampling: How images are made; `None` is the model's default.
        request: What to ask about; `None` is what each eraser erased.
        inputs: Files and settings for the protocol.
        attacks: What finds adversarial prompts; `None` leaves it to the protocol.
    """

    protocol: str
    judge: str | None
    n: int
    seed: int
    sampling: "Sampling | None" = None
    request: "Request | None" = None
    inputs: Inputs = field(default_factory=Inputs)
    attacks: Sequence[str] | None = None

    def deciding(self) -> dict[str, Any]:
        """All of it that decides the numbers, as JSON values."""
        how = self.sampling
        prompts = self.inputs.prompts
        return {
            "protocol": self.protocol,
            "judge": self.judge,
            "n": self.n,
            "seed": self.seed,
            "sampler": how and how.sampler,
            "steps": how and how.steps,
            "request": self.request and self.request.model_dump(mode="json"),
            "prompts": prompts and _hash(prompts),
            "data": self.inputs.data and str(self.inputs.data),
            "options": dict(self.inputs.options),
            "attacks": self.attacks and list(self.attacks),
        }


def _hash(path: Path) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise BadInput(f"Cannot read prompts from {path}: {error.strerror}.") from error


def evaluated(
    screen: "Screen", model: "Model", erasers: "Mapping[str, Eraser]", wish: Wish, out: Path, title: str | None = None
) -> "Evaluation":
    """Run a protocol, write its report into `out`, and say the numbers."""
    from efface.eraser.certificate import holding
    from efface.judges import open_judge
    from efface.judges.wrappers import NoJudge
    from efface.protocols import PROTOCOLS
    from efface.report import write_report

    evaluate = PROTOCOLS.get(wish.protocol).evaluate
    extra: dict[str, Any] = {"inputs": wish.inputs}
    if wish.attacks is not None:
        extra["attacks"] = wish.attacks
    if "attacks" in extra and "attacks" not in inspect.signature(evaluate).parameters:
        raise BadInput(f"The protocol '{wish.protocol}' attacks nothing; leave --attack away.")
    requests = [wish.request] if wish.request else [eraser.request for eraser in erasers.values()]
    trusted = wish.inputs.trust_torchscript
    judge: Judge = NoJudge()
    if wish.judge is not None:
        judge = open_judge(wish.judge, alternatives(requests, wish.inputs.prompts), str(model.device), trusted)
    with screen.progress() as progress:
        evaluation = evaluate(
            model,
            erasers,
            judge,
            out=out,
            n=wish.n,
            sampling=wish.sampling,
            request=wish.request,
            seed=wish.seed,
            progress=progress,
            **extra,
        )
    certificates = {name: held for name, eraser in erasers.items() if (held := holding(model, eraser))}
    evaluation = replace(evaluation, certificates=certificates)
    write_report(evaluation, out, title)
    _tell(screen, evaluation)
    return evaluation


def alternatives(requests: "Sequence[Request]", prompts: Path | None) -> tuple[str, ...]:
    """What the run tells apart: all concepts that requests and prompts name."""
    from efface.generation import read_prompts

    words = [
        word
        for request in requests
        for concept in request.concepts
        for word in (concept.name, concept.guide or "", *concept.adjacent)
    ]
    words += [prompt for request in requests for prompt in request.preserve]
    words += [job.concept for job in read_prompts(prompts)] if prompts else []
    return tuple(dict.fromkeys(filter(None, words)))


def _tell(screen: "Screen", evaluation: "Evaluation") -> None:
    from efface.protocols import BASE
    from efface.protocols.results import ranking

    for name, result in evaluation.results.items():
        if name == BASE:
            continue
        screen.say()
        screen.heading(f"{name}: {verdict(erased_by(result), result).headline}")
        rows = [
            [
                metric,
                short(result.base.get(metric)),
                short(rate),
                short(result.change.get(metric), "+"),
                str(rate.n),
            ]
            for metric, rate in result.rates.items()
        ]
        if rows:
            screen.table(("rate, %", "before", "after", "change", "images"), rows)
        _tell_scores(screen, result)
        for metric, doubts in result.undecided.items():
            total = doubts + (result.metrics[metric].n if metric in result.metrics else 0)
            screen.say(f"{metric}: the judge is undecided about {doubts} of {total} images, which are left out")
        for attack, rate in result.attacks.items():
            screen.say(f"adversarial, by {attack}: {short(rate)} of {rate.n} images")
        if result.agreement:
            screen.say(f"answers that are those on the unedited model's images: {interval(result.agreement)}")
        if result.weight_change is not None:
            screen.say(f"weight change: {result.weight_change:.3g} a parameter")
        for metric, went in {"forget": result.went, **result.went_by}.items():
            for concept, where in _went(went):
                screen.say(f"{metric}: images for {concept} went to: {where}")
    judge, places = evaluation.judge, ranking(evaluation.results)
    screen.say()
    _tell_comparisons(screen, evaluation)
    if len(places) > 1:
        screen.say(f"ranking by err, of fewer rates behind, then by the smaller weight change: {', '.join(places)}")
    screen.say(
        f"judge {judge.name}: recall {interval(judge.recall)}, false positives {interval(judge.false_positive_rate)}"
    )
    if evaluation.errors:
        screen.say(f"{evaluation.errors} images have no verdict and count in no rate; the report lists them.")


def _tell_comparisons(screen: "Screen", evaluation: "Evaluation") -> None:
    """Erasers against each other, if there are several."""
    rows = [
        [f"{row.second} minus {row.first}", row.metric, short(it := row.difference, "+"), chance(it.p), str(it.n)]
        for row in evaluation.comparisons
    ]
    if rows:
        screen.heading("eraser against eraser, on the same prompts and seeds")
        screen.table(("erasers", "rate, %", "difference", "p", "pairs"), rows)
        screen.say("p (McNemar, exact) takes images as independent, intervals resample prompts: believe what both show")


def _tell_scores(screen: "Screen", result: "Result") -> None:
    """Scores and distances, a table for each extractor: values of two cannot be compared."""
    for extractor in dict.fromkeys(number.extractor for number in result.scores.values()):
        rows = [
            [
                name,
                _number(result.base.get(name)),
                _number(number),
                _number(result.change.get(name), "+"),
                str(number.n),
            ]
            for name, number in result.scores.items()
            if number.extractor == extractor
        ]
        screen.table((f"by {extractor}", "before", "after", "change", "images"), rows)


def _number(value: "Measured | None", sign: str = "") -> str:
    """A score or distance with its interval, short enough for a terminal."""
    if value is None:
        return "–"
    middle, low, high = (f"{number:{sign}.3g}" for number in (value.value, value.low, value.high))
    return f"{middle} [{low}, {high}]"


def short(rate: "Measured | None", sign: str = "") -> str:
    """A rate, or with a sign a difference, in percent with its interval, short enough for a terminal."""
    if rate is None:
        return "–"
    value, low, high = (f"{100 * share:{sign}.1f}" for share in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def _went(went: "Destinations") -> list[tuple[str, str]]:
    """Where the images of each erased concept went, the most frequent first."""
    rows: list[tuple[str, str]] = []
    for concept, counts in went.items():
        total = sum(counts.values())
        ranked = sorted(((count, place) for place, count in counts.items() if count), reverse=True)
        if ranked:
            rows.append((concept, ", ".join(f"{place} {percent(count / total)}" for count, place in ranked)))
    return rows
