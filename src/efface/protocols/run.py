"""The run of every protocol: erasers side by side against the unedited model, which generates the union of their plans.

In order: the protocol prepares a plan for each eraser; attacks find adversarial prompts, if the plans want them; the
images of the unedited model and of each eraser are generated and judged; the answers become rates, the images become
scores, and both are compared with the unedited model's, paired by prompt and seed.

An image without an answer counts in no rate, and one that cannot be read in no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface.apply.weight_change import weight_change
from efface.eraser.certificate import valid_certificate
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Image, Sampling
from efface.generation.folder import folder_name
from efface.generation.removal import remove_images
from efface.generation.stored_images import StoredImages
from efface.judges import Judge
from efface.metrics.base import Measured
from efface.metrics.rates import harmonic_mean, paired_difference
from efface.models import Model
from efface.progress import Progress
from efface.protocols.adversarial import AdversarialImages, Attackers
from efface.protocols.base import EvaluationInput, Protocol, check_erasers, common_clip_skip
from efface.protocols.counting import (
    agreement,
    calibrate,
    comparisons,
    destinations,
    rate,
    rates_by_attack,
    undecided,
    values_by_prompt,
)
from efface.protocols.evaluation_record import evaluation_record, input_record
from efface.protocols.plan import BASE, UNNAMED, FailedImage, JudgedImage, Plan, Prepared, ScoredImages
from efface.protocols.results import Calibration, Evaluation, Result
from efface.protocols.run_images import RunImages, Stage
from efface.protocols.scored_images import judged_images, questions_of, reading_error, score_probes, union_of_probes
from efface.request.record import Request
from efface.settings import Scalar

_Rates = dict[str, Measured]


def run_protocol(
    protocol: Protocol,
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    *,
    out: Path,
    n: int | None = None,
    sampling: Sampling | None = None,
    request: Request | None = None,
    seed: int = 0,
    prompts: Path | None = None,
    concept_column: str | None = None,
    data: Path | None = None,
    options: Mapping[str, Scalar] | None = None,
    attacks: Sequence[str] | None = None,
    trust_torchscript: bool = False,
    base_images: Path | None = None,
    stage: Stage | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate erasers side by side against the unedited model.

    Args:
        protocol: The protocol.
        model: The unedited model.
        erasers: By their name in results; `base` is reserved.
        judge: The judge that answers.
        out: Folder for images and verdicts; a second run with the same folder generates only what is missing.
        n: Number of images, counted as the protocol says; None takes the protocol's default.
        sampling: How images are generated; None takes the protocol's default.
        request: What to ask about; None asks about what each eraser erased.
        seed: Seed of the first image of each list of prompts.
        prompts: A file of prompts.
        concept_column: The column of the prompts' concepts. None finds it.
        data: Pictures, a data set's folder or a file of statistics.
        options: The protocol's settings.
        attacks: Names of attacks that replace given adversarial prompts. None uses given prompts, and for a concept
            without any, the attacks of `efface.attacks.DEFAULT`.
        trust_torchscript: Whether a TorchScript file that a setting names may run.
        base_images: A folder with images of the unedited model, which are copied and not generated.
        stage: "generate" generates the images and measures nothing; "judge" generates nothing. None does both.
        progress: The progress callback.

    Raises:
        BadInput: The protocol does not take an input, the judge cannot recognise a concept, an eraser's name is taken,
            an eraser is not of this model, or images of `base_images` or of the stage "generate" cannot be used.
    """
    check_erasers(erasers)
    erasers = protocol.attached(erasers, options or {}, model, request)
    n = protocol.n if n is None else n
    sampling = common_clip_skip(sampling or protocol.sampling(model, data), erasers)
    requests = {name: request or eraser.request for name, eraser in erasers.items()}
    evaluation = EvaluationInput(
        model,
        requests,
        judge,
        sampling,
        n,
        seed,
        prompts,
        data,
        options or {},
        attacks,
        trust_torchscript,
        concept_column,
    )
    protocol.check(evaluation)
    attackers = Attackers(model, judge, sampling, out, attacks, stage == "judge", progress)
    prepared = protocol.prepare(evaluation)
    if stage and not prepared.stores_images:
        raise BadInput(f"The protocol '{protocol.name}' removes its images, which two stages need; leave --stage out.")
    base = StoredImages(base_images, subfolders=True) if base_images and stage != "judge" else None
    images = RunImages(model, sampling, erasers, out, prepared.stores_images, base, stage, progress)
    return _Run(protocol, evaluation, prepared, attackers, erasers, images, out, stage).evaluation()


@dataclass(frozen=True)
class _Run:
    protocol: Protocol
    input: EvaluationInput
    prepared: Prepared
    attackers: Attackers
    erasers: Mapping[str, Eraser]
    images: RunImages
    out: Path
    stage: Stage | None

    def evaluation(self) -> Evaluation:
        judge, plans = self.prepared.judge, dict(self.prepared.plans)
        questions = questions_of(judge, (probe for plan in plans.values() for probe in plan.probes))
        self.images.check({BASE: _union(plans.values()), **plans})
        attacked = self._attacked()
        for name, outcome in attacked.items():
            plans[name] = replace(plans[name], probes=(*plans[name].probes, *outcome.probes))
        union = _union(plans.values())
        if self.stage == "generate":
            results = {BASE: self._generated(union)}
            results |= {name: self._generated(plans[name], name) for name in self.erasers}
            unmeasured = Calibration(judge.name, judge.version, None, None)
            return Evaluation(
                self.protocol.name, unmeasured, results, self._provenance(questions, attacked.values(), ())
            )
        base = self._answers(union, questions)
        results = {BASE: self._result(BASE, union, base, base)}
        for name, eraser in self.erasers.items():
            answers = self._answers(plans[name], questions, name)
            result = self._compared(name, plans[name], answers, base, attacked[name].failed)
            results[name] = replace(result, **self._weights(eraser))
        rates = calibrate(union.probes, base, judge) if self.prepared.labelled else (None, None)
        if not self.prepared.stores_images:
            results = {name: _without_paths(result) for name, result in results.items()}
            remove_images(self.out / "images" / folder_name(name) for name in results)
        return Evaluation(
            self.protocol.name,
            Calibration(judge.name, judge.version, *rates),
            results,
            self._provenance(questions, attacked.values(), base.images.values()),
            comparisons(results, {name: plans[name].rates for name in self.erasers}),
            self.protocol.metrics,
            self.prepared.overall.name if self.prepared.overall else "",
        )

    def _attacked(self) -> dict[str, AdversarialImages]:
        """By eraser, the adversarial images that attacks find."""
        n = self.prepared.attack_images
        if not n:
            return {name: AdversarialImages() for name in self.erasers}
        requests, plans, seed = self.input.requests, self.prepared.plans, self.input.seed
        return {
            name: self.attackers.on(eraser, name, requests[name], plans[name].probes, n, seed)
            for name, eraser in self.erasers.items()
        }

    def _generated(self, plan: Plan, name: str = BASE) -> Result:
        """The outcome of the first stage for one model: its images that could not be generated."""
        images = self.images.of(plan, name)
        failed = tuple(FailedImage(job, image.error) for job, image in images.items() if image.error is not None)
        return Result({}, errors=len(failed), failed_images=failed)

    def _answers(self, plan: Plan, questions: tuple[str, ...], name: str = BASE) -> ScoredImages:
        """The images of one model; those of probes with the judge's scores."""
        images = self.images.of(plan, name)
        return score_probes(images, plan.probes, self.prepared.judge, questions, self.out, name)

    def _result(
        self, name: str, plan: Plan, answers: ScoredImages, base: ScoredImages, failed: Sequence[JudgedImage] = ()
    ) -> Result:
        """All numbers of one model by itself, and the scores beside those of the unedited model."""
        images = (*self._images(plan, answers), *failed)
        rates, parts = self._rates(plan, images)
        scores, unread = self.prepared.measure(name, answers, base) if self.prepared.measure else ({}, ())
        # Each image once, however many questions are asked about it, but again for a metric of prompts without the
        # concept's name, which may share an image with `forget`; and images without a question.
        failures = [image.probe for image in images if image.error is not None]
        errors = {(probe.metric if probe.metric in UNNAMED else "", probe.attack, probe.job) for probe in failures}
        unread = {job for job in plan.jobs if answers.images[job].path is None} | set(unread)
        unread -= {probe.job for probe in failures}
        missing = tuple(
            FailedImage(job, reading_error(image)) for job, image in answers.images.items() if job in unread
        )
        return Result(
            {**rates, **{key: score.after for key, score in scores.items()}},
            change={key: score.change for key, score in scores.items() if score.change},
            base={key: score.before for key, score in scores.items() if score.before},
            destinations=destinations(images),
            errors=len(errors) + len(missing),
            images=images,
            failed_images=missing,
            undecided=undecided(images),
            attacks=rates_by_attack(images),
            err_parts=parts,
        )

    def _compared(
        self, name: str, plan: Plan, answers: ScoredImages, base: ScoredImages, failed: Sequence[JudgedImage]
    ) -> Result:
        """The result of an eraser beside the unedited model on the same probes, paired by prompt and seed."""
        result = self._result(name, plan, answers, base, failed)
        before = self._images(plan, base)
        # The failed images come last, and have no partner.
        pairs = [
            pair for pair in zip(before, result.images, strict=False) if None not in (pair[0].shows, pair[1].shows)
        ]
        change: _Rates = {}
        for metric, count in plan.rates.items():
            counted = [pair for pair in pairs if count(pair[1]) is not None]
            if counted:
                change[metric] = paired_difference(*(values_by_prompt([p[i] for p in counted], count) for i in (0, 1)))
        same = [pair for pair in pairs if pair[1].probe.metric == "forget"]
        return replace(
            result,
            change={**change, **result.change},
            base={**self._rates(plan, before)[0], **result.base},
            destinations_before=destinations(before),
            agreement=None if self.prepared.labelled else agreement(same),
        )

    def _images(self, plan: Plan, answers: ScoredImages) -> tuple[JudgedImage, ...]:
        return judged_images(plan.probes, answers, self.prepared.judge) if plan.probes else ()

    def _rates(self, plan: Plan, images: Sequence[JudgedImage]) -> tuple[_Rates, tuple[str, ...]]:
        """The rates of a plan, the overall score last, and the names of the rates behind that score."""
        rates = {metric: value for metric, count in plan.rates.items() if (value := rate(images, count))}
        overall = self.prepared.overall
        if overall is None:
            return rates, ()
        asked = {
            metric: count for metric, count in plan.rates.items() if any(count(image) is not None for image in images)
        }
        # A rate that was asked for and has no answer would raise the mean of the others by its absence.
        if not {*overall.needs, *asked} <= rates.keys():
            return rates, ()
        rates[overall.name] = harmonic_mean([values_by_prompt(images, count) for count in asked.values()])
        return rates, tuple(asked)

    def _weights(self, eraser: Eraser) -> dict[str, Any]:
        """The certificate of an eraser and, where erasers are ranked, its change of the weights."""
        change = weight_change(eraser.edits, self.input.model) if self.prepared.overall else None
        return {"weight_change": change, "certificate": valid_certificate(self.input.model, eraser) or None}

    def _provenance(
        self, questions: Sequence[str], attacked: Iterable[AdversarialImages], images: Iterable[Image]
    ) -> dict[str, Any]:
        given, config = self.input, self.protocol.config
        # With the defaults, which another version may change.
        options = config.model_validate(given.options).model_dump(mode="json") if config else {}
        record = evaluation_record(
            given.model, self.erasers, self.prepared.judge, questions, given.sampling, given.n, given.seed
        )
        if precisions := {str(image.row["precision"]) for image in images}:  # of another machine, in two stages
            record["precision"] = ", ".join(sorted(precisions))
        record["inputs"] = input_record(options, given.prompts, given.data)
        if any(outcome.probes or outcome.failed for outcome in attacked):
            record["attacks"] = self.attackers.settings
        return record


def _union(plans: Iterable[Plan]) -> Plan:
    """The plan of the unedited model: each probe and each image of the erasers' plans once."""
    every = list(plans)
    rates = {name: count for plan in every for name, count in plan.rates.items()}
    return Plan(
        tuple(union_of_probes(plan.probes for plan in every)),
        rates,
        tuple(dict.fromkeys(job for plan in every for job in plan.jobs)),
    )


def _without_paths(result: Result) -> Result:
    return replace(result, images=tuple(replace(image, path=None) for image in result.images))
