"""A protocol: how often a concept is gone, and how far the mean colour of its images moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from efface.generation import Job
from efface.metrics import METRICS
from efface.protocols.base import FORGET, EvaluationInput, Metric, Protocol
from efface.protocols.image_scores import ImageScores, distance
from efface.protocols.plan import BASE, BeforeAfter, Plan, Prepared, ScoredImages, right_answers
from efface.protocols.probes.requests import take_turns

COLOURS = ImageScores("mean colour", lambda images: np.stack([image.mean(axis=(0, 1)) / 255 for image in images]))


def prepare(evaluation: EvaluationInput) -> Prepared:
    """Plan n images of each erased concept, by its name."""
    plans: dict[str, Plan] = {}
    for name, request in evaluation.requests.items():
        cells = [(concept, concept) for concept in request.names]
        probes = take_turns("forget", cells, evaluation.n * len(cells), evaluation.seed)
        plans[name] = Plan(tuple(probes), {"forget": right_answers("forget")})
    return Prepared(plans, evaluation.judge, colour_shift)


def colour_shift(
    name: str, after: ScoredImages, before: ScoredImages
) -> tuple[Mapping[str, BeforeAfter], Collection[Job]]:
    """The distance from the unedited model's images."""
    first, second = COLOURS(after, after.images), COLOURS(before, after.images)
    shift = distance(METRICS.get("mean_shift").measure, first, second, COLOURS.version) if name != BASE else None
    return ({} if shift is None else {"colour_shift": BeforeAfter(shift)}), ()


SHIFT = Metric("colour_shift", "distance of the mean colour from the unedited model's images", unit="", better="lower")
ENTRY = Protocol("colours", "forgetting, and the shift of colours", "", (FORGET, SHIFT), prepare, n=8)
