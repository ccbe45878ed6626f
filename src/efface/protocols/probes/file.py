"""Prompts from a file: the U&ME challenge's CSV, or prompts with the concept that each should show.

Of a row about an erased concept, `prompt` and `direct_prompt_1` to `_5` count for `forget`, `indirect_prompt_1` to `_5`
for `indirect` and `adversarial_prompt` for `adversarial`. Direct and indirect prompts of other rows count for
`adjacent` where the request lists their concept as a neighbour, else for `retain`. Rows without a concept are about the
erased one.

Image i of a prompt has the row's seed + i, or if it gives none, the run's; a seed that another row gives is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from efface.errors import BadFile
from efface.generation.jobs import Job, repeated, with_next_seed
from efface.generation.prompts import PromptFile
from efface.protocols.plan import FORGETTING, Probe
from efface.request.names import name_key
from efface.request.record import Request

_METRICS = {
    "prompt": "forget",
    "direct_prompt": "forget",
    "indirect_prompt": "indirect",
    "adversarial_prompt": "adversarial",
}


def with_file(probes: Sequence[Probe], file: PromptFile, request: Request, n: int) -> list[Probe]:
    """The file's probes, and for rates without a prompt in the file, those of `probes`.

    Args:
        probes: The request's own.
        file: The prompts of the file.
        request: What was erased.
        n: Number of images of each concept for `forget`, and in all for `retain`; half as many for the others. Each
            prompt is used at least once.

    Raises:
        BadFile: The file has no prompt for an erased concept, or it is not clear what its prompts should show.
    """
    probes_of_rows = probes_of_file(file, request, n)
    in_file = {_rate_of(probe) for probe in probes_of_rows}
    return [*probes_of_rows, *(probe for probe in probes if _rate_of(probe) not in in_file)]


def probes_of_file(file: PromptFile, request: Request, n: int, per_prompt: int | None = None) -> list[Probe]:
    """The file's own probes.

    Args:
        file: The prompts of the file.
        request: What was erased.
        n: Number of images, as in `with_file`.
        per_prompt: Number of images of each prompt, in place of `n`.

    Raises:
        BadFile: The file has no prompt for an erased concept, or it is not clear what its prompts should show.
    """
    erased = {name_key(word): concept for concept in request.concepts for word in (*concept.aliases, concept.name)}
    adjacent = {name_key(word) for concept in request.concepts for word in concept.adjacent}
    groups: dict[tuple[str, str | None], list[Job]] = {}
    file.check_labels()
    for kind, job in ((row.kind, row.job) for row in file.rows):
        if not job.concept and len(request.concepts) > 1:
            raise BadFile(
                f"{file.path} does not say which concept '{job.prompt[:40]}' should show, and the eraser has "
                f"{len(request.concepts)}; add a column 'concept'."
            )
        concept = erased.get(name_key(job.concept or request.names[0]))
        metric = _METRICS[kind]
        if concept is not None:
            groups.setdefault((metric, concept.name), []).append(replace(job, concept=concept.name))
        elif metric != "adversarial":
            near = name_key(job.concept) in adjacent
            groups.setdefault(("adjacent" if near else "retain", None), []).append(job)
    for concept in request.concepts:
        if ("forget", concept.name) not in groups:
            raise BadFile(f"{file.path} has no prompt for '{concept.name}', which was erased; {_concepts_of(file)}.")
    guides = {concept.name: concept.guide for concept in request.concepts}
    probes: list[Probe] = []
    for (metric, _), group in groups.items():
        count = n if metric in ("forget", "retain") else n // 2
        jobs = _in_turn(group, count) if per_prompt is None else repeated(group, per_prompt)
        probes += [Probe(metric, job.concept, job, guides.get(job.concept)) for job in jobs]
    return probes


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


def _concepts_of(file: PromptFile) -> str:
    """Which concepts a file has, and in which column, for a message."""
    column, names = file.columns.get("concept", ("",))[0], list(dict.fromkeys(job.concept for job in file.jobs))
    if not column:
        return "give its rows a column 'concept'"
    more = ", ..." if len(names) > 5 else ""
    return f"its column '{column}' has {', '.join(names[:5])}{more}; --concept-column takes another"
