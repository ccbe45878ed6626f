"""Running a protocol that plans: erasers side by side against the unedited model, which draws the union of their plans.

A shot without an answer counts in no rate; an image that cannot be read counts in no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Image, Sampling, generate_images
from efface.judges import Judge
from efface.metrics.base import Measured
from efface.metrics.rates import paired_difference
from efface.models import Model
from efface.progress import Progress
from efface.protocols.answers import (
    Judged,
    agreement,
    by_prompt,
    calibrate,
    destinations,
    judged,
    other_destinations,
    questions_of,
    rate,
    safe_name,
    shots,
    undecided,
    union,
)
from efface.protocols.base import BASE, Protocol, Shot, Unread
from efface.protocols.comparing import comparisons
from efface.protocols.evaluation_record import check_erasers, provenance, reading_alike
from efface.protocols.inputs import Inputs, Reads
from efface.protocols.paper_sampling import Published, sampling_of
from efface.protocols.plans import Asked, Plan, Prepare, Prepared
from efface.protocols.results import Calibration, Evaluation, Result
from efface.request.record import Request
from efface.settings import Settings


def planned(
    name: str,
    summary: str,
    paper: str,
    metrics: tuple[str, ...],
    prepare: Prepare,
    n: int,
    config: type[Settings],
    is_judged: bool = True,
    reads: tuple[Reads, ...] = (),
    published: Published | None = None,
) -> Protocol:
    """A protocol of what it prepares; the arguments are `Protocol`'s."""
    default = n

    def evaluate(
        model: Model,
        erasers: Mapping[str, Eraser],
        judge: Judge,
        *,
        out: Path,
        n: int = default,
        sampling: Sampling | None = None,
        request: Request | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        inputs: Inputs | None = None,
    ) -> Evaluation:
        check_erasers(erasers)
        inputs = inputs or Inputs()
        inputs.check_read(name, reads)
        if n < 1:
            raise BadInput(f"{n} images are none; ask for at least 1.")
        requests = {key: request or eraser.request for key, eraser in erasers.items()}
        sampling = reading_alike(sampling or sampling_of(published, model, inputs), erasers)
        asked = Asked(model, requests, judge, sampling, n, seed, inputs)
        return _Run(name, asked, prepare(asked), config, out, progress).evaluation(erasers)

    return Protocol(name, summary, paper, metrics, evaluate, default, is_judged, reads, config, published)


@dataclass(frozen=True)
class _Run:
    name: str
    asked: Asked
    prepared: Prepared
    config: type[Settings]
    out: Path
    progress: Progress | None

    def evaluation(self, erasers: Mapping[str, Eraser]) -> Evaluation:
        judge, plans = self.prepared.judge, self.prepared.plans
        every = _together(plans.values())
        questions = questions_of(judge, every.probes)
        base = self._drawn(every, questions)
        results = {BASE: self._result(BASE, every, base, base)}
        for name, eraser in erasers.items():
            edited = self._drawn(plans[name], questions, name, eraser)
            results[name] = self._compared(name, edited, base)
        told = Calibration(judge.name, judge.version, None, None)
        if self.prepared.labelled:
            told = Calibration(judge.name, judge.version, *calibrate(every.probes, base, judge))
        if not self.prepared.kept:
            results = {name: _without_pictures(result) for name, result in results.items()}
            for path in (self.out / "images").glob("*/*.png"):
                path.unlink()
        beside = comparisons(results, {name: plans[name].rates for name in erasers})
        return Evaluation(self.name, told, results, self._facts(erasers, questions), comparisons=beside)

    def _drawn(self, plan: Plan, questions: tuple[str, ...], name: str = BASE, eraser: Eraser | None = None) -> Judged:
        """One model's images with the judge's scores; of the images that no question is asked of, without."""
        model, sampling, progress = self.asked.model, self.asked.sampling, self.progress
        answers = Judged({}, questions, {}, {})
        if plan.probes:
            answers = judged(
                model,
                plan.probes,
                self.prepared.judge,
                questions,
                sampling,
                self.out,
                name,
                eraser,
                progress,
                use_cache=self.prepared.kept,
            )
        if not (jobs := [job for job in dict.fromkeys(plan.jobs) if job not in answers.images]):
            return answers
        images = generate_images(
            model,
            jobs,
            sampling,
            out=self.out / "images" / safe_name(name),
            eraser=eraser,
            use_cache=self.prepared.kept and eraser is None,
            progress=progress,
            what=f"more images of {name}" if plan.probes else f"images of {name}",
        )
        return replace(answers, images={**answers.images, **dict(zip(jobs, images, strict=True))})

    def _result(self, name: str, plan: Plan, answers: Judged, base: Judged) -> Result:
        """Everything about one model that needs no comparison."""
        answered = self._shots(plan, answers)
        rates = {metric: value for metric, count in plan.rates.items() if (value := rate(answered, count))}
        scores, unread = self.prepared.measure(name, answers, base) if self.prepared.measure else ({}, ())
        # Images, however many questions each is asked, and those too that nothing is asked of.
        told = {shot.probe.job for shot in answered if shot.error is not None}
        failed = {job for job in plan.jobs if answers.images[job].path is None} | set(unread)
        missed = tuple(Unread(job, _why(image)) for job, image in answers.images.items() if job in failed - told)
        return Result(
            {**rates, **{key: score.after for key, score in scores.items()}},
            change={key: score.change for key, score in scores.items() if score.change},
            base={key: score.before for key, score in scores.items() if score.before},
            went=destinations(answered),
            went_by=other_destinations(answered),
            errors=len(told) + len(missed),
            shots=answered,
            unread=missed,
            undecided=undecided(answered),
        )

    def _shots(self, plan: Plan, answers: Judged) -> tuple[Shot, ...]:
        return shots(plan.probes, answers, self.prepared.judge) if plan.probes else ()

    def _compared(self, name: str, edited: Judged, base: Judged) -> Result:
        """The same beside the unedited model on the same probes, and the difference, paired by prompt and seed."""
        plan = self.prepared.plans[name]
        after = self._result(name, plan, edited, base)
        before = self._shots(plan, base)
        both = [(x, y) for x, y in zip(before, after.shots, strict=True) if None not in (x.found, y.found)]
        change: dict[str, Measured] = {}
        for metric, count in plan.rates.items():
            pairs = [pair for pair in both if count(pair[1]) is not None]
            if pairs:
                change[metric] = paired_difference(*(by_prompt([p[i] for p in pairs], count) for i in (0, 1)))
        rates = {metric: value for metric, count in plan.rates.items() if (value := rate(before, count))}
        main = [pair for pair in both if pair[1].probe.metric == "forget"]
        same = None if self.prepared.labelled else agreement(main)
        went, by = destinations(before), other_destinations(before)
        change, rates = {**change, **after.change}, {**rates, **after.base}
        return replace(after, change=change, base=rates, went_before=went, went_by_before=by, agreement=same)

    def _facts(self, erasers: Mapping[str, Eraser], questions: Sequence[str]) -> dict[str, Any]:
        asked = self.asked
        facts = provenance(asked.model, erasers, self.prepared.judge, questions, asked.sampling, asked.n, asked.seed)
        # With the defaults, which another version may change.
        options = self.config.model_validate(asked.inputs.options).model_dump(mode="json")
        return {**facts, "inputs": replace(asked.inputs, options=options).as_dict()}


def _together(plans: Iterable[Plan]) -> Plan:
    """What the unedited model shall draw: all of it, each once."""
    every = list(plans)
    rates = {name: count for plan in every for name, count in plan.rates.items()}
    return Plan(
        tuple(union(plan.probes for plan in every)),
        rates,
        tuple(dict.fromkeys(job for plan in every for job in plan.jobs)),
    )


def _why(image: Image) -> str:
    """Why an image cannot be read, in the words of verdicts."""
    try:
        image.pixels()
    except OSError as error:
        return f"the image cannot be read: {error}"
    return "the image could not be read when it was measured"


def _without_pictures(result: Result) -> Result:
    return replace(result, shots=tuple(replace(shot, path=None) for shot in result.shots))
