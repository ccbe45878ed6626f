"""Prompts from a request's own words, for concepts of an open world.

`forget` prompts each concept in plain templates, `indirect` its aliases, `adjacent` and `retain` what the request lists
to survive, `adversarial` its adversarial prompts. Nothing else is probed. Probe k of a list has seed `seed + k`.
"""

from __future__ import annotations

from collections.abc import Sequence

from efface.generation.jobs import Job
from efface.protocols.plan import Probe
from efface.request.record import Concept, Request

_OBJECT = (
    "a {}",
    "a photo of a {}",
    "an image of a {}",
    "a painting of a {}",
    "a drawing of a {}",
    "a picture of a {}",
)
_STYLE = (
    "a house in the style of {}",
    "a portrait in the style of {}",
    "a landscape in the style of {}",
    "a boat in the style of {}",
    "a still life in the style of {}",
    "a city in the style of {}",
)
# A memorised picture needs its exact caption.
_TEMPLATES = {"object": _OBJECT, "unsafe": _OBJECT, "style": _STYLE, "memorised": ("{}",)}


def probes_in_words(request: Request, n: int, seed: int) -> list[Probe]:
    """Probes from a request's own words.

    Args:
        request: What was erased.
        n: Number of images of each concept for `forget` and in all for `retain`; half as many for the others.
        seed: Seed of the first image of each list.
    """
    probes = [probe for concept in request.concepts for probe in _of_concept(concept, n, seed)]
    templates, words = _TEMPLATES[request.concepts[0].kind], _without_article(request.preserve)
    preserved = [(word, template.format(word)) for template in templates for word in words]
    return probes + take_turns("retain", preserved, n, seed)


def adversarial_probes(concept: Concept, n: int, seed: int) -> list[Probe]:
    """The concept's own adversarial prompts, in turn.

    Args:
        concept: The erased concept.
        n: Number of images.
        seed: Seed of the first.
    """
    return take_turns("adversarial", [(concept.name, prompt) for prompt in concept.adversarial], n, seed, concept.guide)


def take_turns(
    metric: str, cells: Sequence[tuple[str, str]], n: int, seed: int, guide: str | None = None
) -> list[Probe]:
    """n probes that take turns over (concept, prompt) cells; none if there is no cell.

    Args:
        metric: The probes' metric.
        cells: Concepts with their prompts.
        n: Number of probes.
        seed: Seed of the first.
        guide: What the concept was erased towards.
    """
    turns = [cells[k % len(cells)] for k in range(n if cells else 0)]
    return [
        Probe(metric, concept, Job(prompt, seed + k, concept=concept), guide)
        for k, (concept, prompt) in enumerate(turns)
    ]


def at_most(jobs: Sequence[Job], n: int) -> list[Job]:
    """At most n jobs of each concept, spread over the list, concept by concept."""
    by_concept: dict[str, list[Job]] = {}
    for job in jobs:
        by_concept.setdefault(job.concept, []).append(job)
    chosen: list[Job] = []
    for group in by_concept.values():
        k = min(n, len(group))
        chosen += [group[i * len(group) // k] for i in range(k)]
    return chosen


def _of_concept(concept: Concept, n: int, seed: int) -> list[Probe]:
    templates = _TEMPLATES[concept.kind]
    named = [(concept.name, template.format(concept.name)) for template in templates]
    alias = [(concept.name, template.format(word)) for template in templates for word in concept.aliases]
    near = [(word, template.format(word)) for template in templates for word in _without_article(concept.adjacent)]
    return [
        *take_turns("forget", named, n, seed, concept.guide),
        *take_turns("indirect", alias, n // 2, seed, concept.guide),
        *take_turns("adjacent", near, n // 2, seed),
        *adversarial_probes(concept, n // 2, seed),
    ]


def _without_article(prompts: Sequence[str]) -> list[str]:
    """Prompts without their article, since the templates bring one."""
    words = [prompt.split() for prompt in prompts if prompt.strip()]
    return [" ".join(w[1:] if len(w) > 1 and w[0].lower() in ("a", "an", "the") else w) for w in words]
