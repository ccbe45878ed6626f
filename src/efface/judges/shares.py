"""How often images of a prompt show each of several attributes: what debiasing is steered by.

An image counts for the attribute that the judge scores highest, as in UCE's script, whatever the threshold. One that it
gives no score for counts for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from efface.errors import BadInput
from efface.generate import Job, Sampling, sample

if TYPE_CHECKING:
    from efface.eraser import Eraser
    from efface.judges.base import Judge
    from efface.methods.base import Measure
    from efface.models import Model


def measure_by(judge: Judge, model: Model) -> Measure:
    """The measure that a judge makes of what a model draws."""

    def measure(
        prompt: str,
        attributes: Sequence[str],
        eraser: Eraser | None,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        clip_skip: int | None = None,
    ) -> list[float]:
        for attribute in attributes:
            if not judge.knows(attribute):
                raise BadInput(f"The judge '{judge.name}' cannot recognise '{attribute}'; choose another with --judge.")
        how = replace(Sampling.default(model), steps=steps, guidance=guidance, clip_skip=clip_skip)
        jobs = [Job(prompt, seed) for seed in seeds]
        drawn = [pixels for _, pixels in sample(model, jobs, how, eraser) if pixels is not None]
        if not drawn:
            raise RuntimeError(f"No image of '{prompt}' could be made: the model gave numbers that are not finite.")
        scores = judge.scores(np.stack(drawn), attributes)
        scored = scores[np.isfinite(scores).all(axis=1)]
        if not len(scored):
            raise RuntimeError(f"The judge '{judge.name}' gave no score for any image of '{prompt}'.")
        return (np.bincount(scored.argmax(axis=1), minlength=len(attributes)) / len(scored)).tolist()

    return measure
