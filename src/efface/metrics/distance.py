"""Distances between two sets of images: the value, and its interval from resampling both sets."""

from __future__ import annotations

import math

import numpy as np

from efface.errors import BadInput
from efface.metrics.base import Value
from efface.metrics.bootstrap import Array, Statistic, percentiles, shifted, weights
from efface.metrics.features import Features


def measure(
    statistic: Statistic,
    images: Features,
    reference: Features,
    draws: int,
    note: str = "",
    floor: float = -math.inf,
) -> Value:
    """The distance of `images` from `reference`.

    Args:
        statistic: Which distance.
        images: The set that is measured.
        reference: What it is measured against.
        draws: How many resamples; each costs as much as the distance itself.
        note: What else has to be said.
        floor: What the distance cannot be below.

    Raises:
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    values = statistic(images.values, reference.values, *resamples(images, reference, draws))
    low, high = percentiles(shifted(values[0], values[1:]))
    note = f"against {len(reference)} images{'; ' if note else ''}{note}"
    return Value(float(values[0]), max(low, floor), high, len(images), images.extractor, note)


def resamples(images: Features, reference: Features, draws: int) -> tuple[Array, Array]:
    """Weights of both sets, (1 + draws, n) and (1 + draws, m), the first row of ones.

    Sets made from the same prompts are resampled together, so that what a prompt does to both cancels.

    Raises:
        BadInput: The sets come from different extractors, or there are too few draws.
    """
    if images.extractor != reference.extractor:
        raise BadInput(
            f"Features of '{images.extractor}' and of '{reference.extractor}' have no distance: "
            "extract both sets with one extractor."
        )
    if draws < 20:
        raise BadInput(f"An interval needs at least 20 draws, not {draws}.")
    prompts = set(images.prompts or ())
    together = len(prompts) > 1 and prompts == set(reference.prompts or ())
    w = weights(images.prompts, len(images), draws, np.random.default_rng(0))
    v = weights(reference.prompts, len(reference), draws, np.random.default_rng(0 if together else 1))
    return w, v
