"""Prompts from a file: the U&ME challenge's CSV, or prompts with the concept that each should show.

Of a row about an erased concept, `prompt` and `direct_prompt_1` to `_5` count for `forget`, `indirect_prompt_1` to `_5`
for `indirect` and `adversarial_prompt` for `adversarial`. Direct prompts of other rows count for `adjacent` where the
request lists their concept as a neighbour, else for `retain`. Rows without a concept are about the erased one.

Image i of a prompt has the row's seed + i, or if it gives none, the run's; a seed that another row gives is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from efface.errors import BadFile
from efface.generation.jobs import Job, with_next_seed
from efface.generation.prompts import read_labelled_prompts
from efface.protocols.plan import FORGETTING, Probe
from efface.request.record import Request, folded

_METRICS = {
    "prompt": "forget",
    "direct_prompt": "forget",
    "indirect_prompt": "indirect",
    "adversarial_prompt": "adversarial",
}


def with_file(probes: Sequence[Probe], path: Path, request: Request, n: int, seed: int) -> list[Probe]:
    """The file's probes, and for rates without a prompt in the file, those of `probes`.

    Args:
        probes: The request's own.
        path: The file.
        request: What was erased.
        n: Number of images of each concept for `forget`, and in all for `retain`; half as many for the others. Each
            prompt is used at least once.
        seed: Seed of rows that give none.

    Raises:
        BadFile: The file cannot be read, or has no prompt for an erased concept.
    """
    probes_of_rows = probes_of_file(path, request, n, seed)
    in_file = {_rate_of(probe) for probe in probes_of_rows}
    return [*probes_of_rows, *(probe for probe in probes if _rate_of(probe) not in in_file)]


def probes_of_file(path: Path, request: Request, n: int, seed: int) -> list[Probe]:
    """The file's own probes.

    Args:
        path: The file.
        request: What was erased.
        n: Number of images, as in `with_file`.
        seed: Seed of rows that give none.

    Raises:
        BadFile: The file cannot be read, or has no prompt for an erased concept.
    """
    erased = {name_key(word): concept for concept in request.concepts for word in (*concept.aliases, concept.name)}
    adjacent = {name_key(word) for concept in request.concepts for word in concept.adjacent}
    groups: dict[tuple[str, str | None], list[Job]] = {}
    for kind, job in read_labelled_prompts(path, seed):
        if not job.concept and len(request.concepts) > 1:
            raise BadFile(
                f"{path} does not say which concept '{job.prompt[:40]}' should show, and the eraser has "
                f"{len(request.concepts)}; add a column 'concept'."
            )
        concept = erased.get(name_key(job.concept or request.names[0]))
        metric = _METRICS[kind]
        if concept is not None:
            groups.setdefault((metric, concept.name), []).append(replace(job, concept=concept.name))
        elif metric == "forget":
            near = name_key(job.concept) in adjacent
            groups.setdefault(("adjacent" if near else "retain", None), []).append(job)
    for concept in request.concepts:
        if ("forget", concept.name) not in groups:
            raise BadFile(f"{path} has no prompt for '{concept.name}', which was erased; give its rows that concept.")
    guides = {concept.name: concept.guide for concept in request.concepts}
    return [
        Probe(metric, job.concept, job, guides.get(job.concept))
        for (metric, _), jobs in groups.items()
        for job in _in_turn(jobs, n if metric in ("forget", "retain") else n // 2)
    ]


def name_key(concept: str) -> str:
    """A name without case, spaces and punctuation: `Golf Ball`, `golf_ball` and `GolfBall` are one."""
    return "".join(letter for letter in folded(concept) if letter.isalnum())


def _in_turn(jobs: Sequence[Job], n: int) -> list[Job]:
    """n jobs, or each once if these are more; a repeated job has the next seed that no other job has."""
    turns = list(dict.fromkeys(jobs))
    each, taken = len(turns), set(turns)
    while len(turns) < n:
        turns.append(with_next_seed(turns[-each], taken))
    return turns


def _rate_of(probe: Probe) -> tuple[str, str]:
    """The rate, for which one prompt in the file replaces all others: of erased concepts, concept by concept."""
    return probe.metric, probe.concept if probe.metric in FORGETTING else ""
