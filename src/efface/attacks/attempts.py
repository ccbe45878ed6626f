"""Attack success rates: a search for each prompt, and whether any of its images brings the concept back.

As Zhang et al. (arXiv 2310.11868) count, over N prompts of the concept, each with its seed:

    pre_asr    share of prompts whose own image, by the edited model, shows the concept: no attack is needed
    asr        (those + those of the others of which one image of the search shows it) / N
    fresh_asr  share of prompts for which the result of the search, or the prompt itself, shows it at another seed too

A search generates images at the prompt's own seed, and the best of them counts in `asr`, whether by chance or by the
attack; `fresh_asr` is of one image that no search has used. A prompt whose attack or judge fails is an error and counts
in no rate. Since only prompts that resist are searched for, errors make `asr` too high.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from efface.attacks.search import AWAY, AttackRun
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Job
from efface.generation.folder import folder_name
from efface.generation.removal import remove_images
from efface.generation.rows import read_rows, write_rows
from efface.generation.run import Recipe
from efface.judges.shared.unknown import unrecognised
from efface.metrics.base import Measured
from efface.metrics.bootstrap import by_prompt
from efface.metrics.rates import rate_with_interval
from efface.parsing import Schema
from efface.progress import Progress
from efface.provenance import versions

#: The name of a file of attempts: an eraser, and the hash of what decides the attempts.
_RECORD = re.compile(r".+-[0-9a-f]{12}\.jsonl")


@dataclass(frozen=True)
class Attempt:
    """The attack on one prompt.

    Attributes:
        prompt: The prompt.
        seed: Its seed.
        succeeds_without_attack: Whether the prompt's own image shows the concept; None without an answer.
        success: Whether that image or one of the search does; None without an answer.
        fresh: Whether the image at another seed does; None without an answer.
        text: The text with which the concept shows best; None for an embedding, and without a search.
        images: Number of images of the search.
        seconds: Duration of the search, with generation and judging.
        error: Why there is no answer; empty if the judge is undecided.
    """

    prompt: str
    seed: int
    succeeds_without_attack: bool | None
    success: bool | None
    fresh: bool | None = None
    text: str | None = None
    images: int = 0
    seconds: float = 0.0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The attempt as JSON."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "needless": self.succeeds_without_attack,
            "success": self.success,
            "fresh": self.fresh,
            "found": self.text,
            "images": self.images,
            "seconds": self.seconds,
            "error": self.error,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Attempt:
        """Read what `as_dict` wrote."""
        return cls(**AttemptRow.checked(row, "The file of attempts").model_dump())


class AttemptRow(Schema):
    """An attempt in the file of attempts; see `Attempt`."""

    prompt: str
    seed: int = Field(ge=0)
    succeeds_without_attack: bool | None = Field(alias="needless")
    success: bool | None
    fresh: bool | None
    text: str | None = Field(alias="found")
    images: int = Field(ge=0)
    seconds: float = Field(ge=0)
    error: str


@dataclass(frozen=True)
class AttackResult:
    """The attempts on one eraser."""

    attempts: tuple[Attempt, ...]

    @property
    def n(self) -> int:
        """Number of prompts with an answer."""
        return len(self.attempts) - self.errors - self.undecided

    @property
    def errors(self) -> int:
        """Number of prompts without an answer because of a failure."""
        return sum(bool(attempt.error) for attempt in self.attempts)

    @property
    def undecided(self) -> int:
        """Number of prompts without an answer because the judge is undecided."""
        return sum(attempt.success is None and not attempt.error for attempt in self.attempts)

    @property
    def pre_asr(self) -> Measured | None:
        """Share of prompts that need no attack; None without an answer."""
        return self._rate(lambda attempt: attempt.succeeds_without_attack)

    @property
    def asr(self) -> Measured | None:
        """Attack success rate; None without an answer."""
        return self._rate(lambda attempt: attempt.success)

    @property
    def fresh_asr(self) -> Measured | None:
        """Share of prompts with success at another seed; None without an answer."""
        return self._rate(lambda attempt: attempt.fresh)

    @property
    def seconds_per_prompt(self) -> float | None:
        """Mean duration of a search; None without a search."""
        seconds = [attempt.seconds for attempt in self.attempts if attempt.images and not attempt.error]
        return sum(seconds) / len(seconds) if seconds else None

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON, without the attempts."""
        return {
            "n": self.n,
            "errors": self.errors,
            "undecided": self.undecided,
            "pre_asr": self.pre_asr and self.pre_asr.as_dict(),
            "asr": self.asr and self.asr.as_dict(),
            "fresh_asr": self.fresh_asr and self.fresh_asr.as_dict(),
            "seconds_per_prompt": self.seconds_per_prompt,
        }

    def _rate(self, answer: Callable[[Attempt], bool | None]) -> Measured | None:
        return share([attempt.prompt for attempt in self.attempts], [answer(attempt) for attempt in self.attempts])


def share(prompts: Sequence[str], answers: Sequence[bool | None]) -> Measured | None:
    """The share of yes among the answers, resampled by prompt; None without an answer.

    Args:
        prompts: The prompt of each image.
        answers: Whether each image shows the concept.
    """
    known = [(prompt, float(answer)) for prompt, answer in zip(prompts, answers, strict=True) if answer is not None]
    if not known:
        return None
    return rate_with_interval(by_prompt([value for _, value in known], [prompt for prompt, _ in known]))


def attack_erasers(
    run: AttackRun,
    erasers: Mapping[str, Eraser],
    jobs: Sequence[Job],
    others: Sequence[Job],
    out: Path,
    progress: Progress | None = None,
) -> tuple[Measured | None, Measured | None, dict[str, AttackResult]]:
    """Calibrate the judge on images of the unedited model, then attack each eraser alone.

    Args:
        run: The attack and the concept.
        erasers: By name.
        jobs: The prompts, each with its seed.
        others: Prompts of other concepts.
        out: The folder of the run.
        progress: The progress callback, called before each prompt.

    Returns:
        The judge's recall, the share of the prompts' images that show the concept, which is the most that an attack can
        bring back; its false-positive rate, the share of other concepts' images in which it finds the concept; and by
        name, the result of each eraser.

    Raises:
        BadInput: The attack does not fit the model or an eraser, the judge does not know the concept, there is no
            prompt, or images that shall not stay cannot be removed.
    """
    for eraser in erasers.values():
        run.attack.check_fit(run.model, eraser)
    if not run.judge.knows(run.concept):
        raise unrecognised(run.judge, run.concept, "choose another with --judge")
    if not jobs:
        raise BadInput(f"There is no prompt for '{run.concept}' to attack; give some with --prompts.")
    try:
        recall, false_positives = (
            share([job.prompt for job in some], run.answers(some, None, out / "images" / "base"))
            for some in (jobs, others)
        )
        results = {name: attack_prompts(run, eraser, name, jobs, out, progress) for name, eraser in erasers.items()}
    finally:
        if not run.stores_images:
            remove_images(run.opened, below=out)
    return recall, false_positives, results


def attack_prompts(
    run: AttackRun, eraser: Eraser, name: str, jobs: Sequence[Job], out: Path, progress: Progress | None = None
) -> AttackResult:
    """Attack each prompt. Finished attempts are stored under `attempts`, so that an interrupted run resumes.

    Args:
        run: The attack and the concept.
        eraser: The eraser.
        name: Its name in results.
        jobs: The prompts, each with its seed.
        out: The folder of the run.
        progress: The progress callback, called before each prompt.
    """
    record = out / "attempts" / f"{folder_name(name)}-{_key(run, eraser, jobs)[:12]}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    stored = _read_attempts(record)
    done = {job: stored[place] for place, job in enumerate(jobs) if place in stored and not stored[place].error}
    images = out / "images" / folder_name(name)
    scores = run.scores(jobs, eraser, images)
    # Of finished attempts too: a killed run has not removed the images of its searches.
    run.opened.update(dict.fromkeys(_search_folder(out, name, index) for index in range(len(jobs))))
    for index, (job, score) in enumerate(zip(jobs, scores, strict=True)):
        if progress:
            progress(f"{run.attack.name} on {name}", index, len(jobs))
        if job not in done:
            done[job] = _attempt(run, job, score, eraser, name, index, out)
            rows = ({"job": jobs.index(one), **done[one].as_dict()} for one in dict.fromkeys(jobs) if one in done)
            write_rows(record, rows)
    # Again, as the last images: the order of the metadata must not depend on which attempts were made in this run.
    run.images(jobs, eraser, images)
    return AttackResult(tuple(done[job] for job in jobs))


def discard_attempts(out: Path) -> None:
    """Remove the attempts of all earlier runs in a folder. Other files stay.

    Args:
        out: The folder of the runs.
    """
    for file in (out / "attempts").glob("*.jsonl"):
        if _RECORD.fullmatch(file.name):
            file.unlink()


def _read_attempts(record: Path) -> dict[int, Attempt]:
    """The finished attempts by the place of their job; those of a version that wrote no place are made again."""
    rows = (dict(row) for row in read_rows(record))
    return {row.pop("job"): Attempt.from_dict(row) for row in rows if isinstance(row.get("job"), int)}


def _search_folder(out: Path, name: str, index: int) -> Path:
    """The folder of the search for one prompt. Each has its own, since opening a folder reads all that is in it."""
    return out / "searches" / folder_name(name) / str(index)


def _attempt(run: AttackRun, job: Job, score: float, eraser: Eraser, name: str, index: int, out: Path) -> Attempt:
    """The attack on one prompt, given the judge's score of the prompt's own image."""

    def fresh(best: Job) -> bool | None:
        """Whether the image at another seed shows the concept."""
        elsewhere = [replace(best, seed=best.seed + AWAY)]
        return run.answers(elsewhere, eraser, out / "images" / folder_name(name))[0]

    shows = run.answer(score)
    plain = Attempt(job.prompt, job.seed, shows, shows)
    if shows is None:
        return replace(plain, error="the judge failed on the prompt's own image" if math.isnan(score) else "")
    if shows:
        return replace(plain, fresh=fresh(job))
    started = time.perf_counter()
    search = run.search(
        eraser,
        (job.prompt,),
        range(job.seed, job.seed + run.attack.images(run.config)),
        _search_folder(out, name, index),
        like=job,
        enough=run.judge.threshold(run.concept),
    )
    tried = search.tried
    if search.error:
        return replace(plain, success=None, images=len(tried), error=search.reason)
    plain = replace(plain, images=len(tried), seconds=time.perf_counter() - started)
    unread = sum(map(math.isnan, tried.values()))
    best = max(tried, key=lambda other: (not math.isnan(tried[other]), tried[other]), default=job)
    success = run.answer(tried.get(best, math.nan))
    if not success and (unread or not tried):
        return replace(plain, success=None, error=f"{unread} of {len(tried)} images have no verdict")
    return replace(plain, success=success, fresh=fresh(best), text=None if best.embedding else best.prompt)


def _key(run: AttackRun, eraser: Eraser, jobs: Sequence[Job]) -> str:
    """A hash of all that decides the attempts on an eraser."""
    recipe = Recipe.of(run.model, replace(run.sampling, batch_size=1), eraser)  # the batch size decides only the speed
    judged = (run.judge.name, run.judge.version, run.concept, run.words)
    searched = (run.attack.name, run.config.model_dump_json(), list(jobs), versions())
    return hashlib.sha256(repr((recipe, judged, searched)).encode()).hexdigest()
