"""The `err` protocol: is it forgotten, is the rest retained, near and far, however it is asked for?

After the challenge of the U&ME workshop at ICCV 2025: forget, retain, adjacent, indirect and adversarial accuracy, and
their harmonic mean, the erasing-retention-robustness score. Shares of images in which the judge

    forget       does not find the erased concept, prompted by name
    indirect     does not find it, prompted by other words for it
    adversarial  does not find it, prompted by the request's adversarial prompts
    retain       finds what was prompted, of the same sort and not near
    adjacent     finds what was prompted, near neighbours of what was erased
    err          harmonic mean of those of the five that there are

Every rate stands beside the same rate of the unedited model on the same prompts and seeds, their paired difference,
and the judge's recall and false-positive rate on the unedited model's images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efface.eraser import Eraser
from efface.errors import BadInput
from efface.generate import Progress, Sampling
from efface.judges import Judge
from efface.metrics.rates import Rate, harmonic_mean, paired_difference
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols.base import BASE, FORGETTING, Calibration, Evaluation, Probe, Protocol, Result, Shot
from efface.protocols.probes import probes_in_words
from efface.protocols.probes_emoji import EmojiWorld
from efface.protocols.running import Judged, by_prompt, calibrate, judged, questions_of, rate, safe_name, shots
from efface.provenance import versions
from efface.request import Request

METRICS = ("forget", "retain", "adjacent", "indirect", "adversarial")


def evaluate(
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    *,
    out: Path,
    n: int = 50,
    sampling: Sampling | None = None,
    request: Request | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate erasers side by side against the unedited model.

    Args:
        model: The unedited model.
        erasers: By the name that the result has them under; `base` is taken.
        judge: Who answers.
        out: Folder for images and verdicts; a second run with the same folder makes only what is missing.
        n: Images a concept for `forget` and in all for `retain`; half as many for each of the others.
        sampling: How; `None` takes the model's default.
        request: What to ask about; `None` asks about what each eraser erased.
        seed: Of the first image of each list of prompts.
        progress: Told as images are done.

    Raises:
        BadInput: The judge cannot recognise a concept, an eraser's name is taken, or one is not of this model.
    """
    _check(erasers, n)
    sampling = sampling or Sampling.default(model)
    plans = {name: plan(model, judge, request or eraser.request, n, seed) for name, eraser in erasers.items()}
    union = list({(p.metric, p.concept, p.job): p for probes in plans.values() for p in probes}.values())
    questions = questions_of(judge, union)
    base = judged(model, union, judge, questions, sampling, out, progress=progress)
    results = {BASE: _result(union, base, judge)}
    for name, eraser in erasers.items():
        edited = judged(model, plans[name], judge, questions, sampling, out, name, eraser, progress)
        results[name] = _compared(plans[name], edited, base, judge)
    recall, wrong = calibrate(union, base, judge)
    facts = _provenance(model, erasers, judge, questions, sampling, n, seed)
    return Evaluation("err", Calibration(judge.name, judge.version, recall, wrong), results, facts)


def plan(model: Model, judge: Judge, request: Request, n: int, seed: int) -> list[Probe]:
    """The probes for one request: from the catalogue on the embedded model, else from the request's own fields."""
    probes = EmojiWorld(catalogue(), request).probes(n, seed) if "emoji" in (model.name, judge.name) else None
    return probes_in_words(request, n, seed) if probes is None else probes


def _check(erasers: Mapping[str, Eraser], n: int) -> None:
    if not erasers:
        raise BadInput("There is no eraser to evaluate; give at least one.")
    if n < 2:
        raise BadInput(f"{n} images a concept are too few; ask for at least 2.")
    folders = {safe_name(name).casefold(): name for name in erasers}
    if len(folders) < len(erasers) or BASE in folders:
        raise BadInput(f"Two erasers share a name, or one is called '{BASE}'; rename the files.")


def _result(probes: Sequence[Probe], answers: Judged, judge: Judge) -> Result:
    """Everything about one model that needs no other."""
    erased = tuple(dict.fromkeys(probe.concept for probe in probes if probe.metric in FORGETTING))
    answered = shots(probes, answers, judge)
    groups = {metric: [shot for shot in answered if shot.probe.metric == metric] for metric in METRICS}
    metrics = {metric: value for metric, group in groups.items() if (value := rate(group))}
    if {"forget", "retain"} <= metrics.keys():
        metrics["err"] = harmonic_mean([by_prompt(groups[metric]) for metric in METRICS if metric in metrics])
    went = {concept: _destinations(s for s in groups["forget"] if s.probe.concept == concept) for concept in erased}
    return Result(metrics, went=went, errors=sum(s.found is None for s in answered), shots=answered)


def _compared(probes: Sequence[Probe], edited: Judged, base: Judged, judge: Judge) -> Result:
    """The same, beside the unedited model on the same probes."""
    after, before = _result(probes, edited, judge), _result(probes, base, judge)
    change: dict[str, Rate] = {}
    for metric in METRICS:
        both = [
            (x, y)
            for x, y in zip(before.shots, after.shots, strict=True)
            if x.probe.metric == metric and x.found is not None and y.found is not None
        ]
        if both:
            change[metric] = paired_difference(by_prompt(x for x, _ in both), by_prompt(y for _, y in both))
    return Result(after.metrics, change, before.metrics, after.went, after.errors, after.shots)


def _destinations(found: Iterable[Shot]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shot in found:
        if shot.went:
            counts[shot.went] = counts.get(shot.went, 0) + 1
    return counts


def _provenance(
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    questions: Sequence[str],
    sampling: Sampling,
    n: int,
    seed: int,
) -> dict[str, Any]:
    how = asdict(sampling)
    del how["batch_size"]  # decides nothing but the speed
    return {
        "model": {"name": model.name, "hash": model.hash},
        "erasers": {
            name: {"hash": e.hash, "method": e.method, "request": e.request.model_dump(mode="json")}
            for name, e in erasers.items()
        },
        "judge": {
            "name": judge.name,
            "version": judge.version,
            "thresholds": {q: judge.threshold(q) for q in questions},
        },
        "sampling": how,
        "n": n,
        "seed": seed,
        "versions": versions(),
    }


ERR = Protocol(
    name="err",
    summary="forget, retain, adjacent, indirect and adversarial accuracy, and their harmonic mean",
    paper="U&ME workshop challenge, ICCV 2025",
    metrics=(*METRICS, "err"),
    evaluate=evaluate,
)
