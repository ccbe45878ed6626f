"""UCE's debiasing: a concept is read as more of what its images show too seldom, until the shares are as wanted.

With the concepts' tokens c_i, the attributes' tokens a_k, wanted shares w_k and measured shares r_ik:

    d_ik = w_k - r_ik, or all 0 for a concept whose shares are all nearer than max_diff
    v_i <- v_i + step_size sum_k d_ik W a_k,   v_i = W c_i at first;   W' = UCE of W with the targets v_i

and again, until every d is 0. The v_i accumulate from one round to the next, which is what makes it converge, while W'
is solved from the original W each time. Since v_i = W g_i with g_i <- g_i + step_size sum_k d_ik a_k, it is one
operator on the text like all of uce's. Tokens are last subject tokens.

Paper: https://arxiv.org/abs/2308.14761. Reference: trainscripts/uce_sd_debias.py (2025) of
https://github.com/rohitgandikota/unified-concept-editing. Its argument `step_size`, 0.1, is read nowhere, so that its
step is 1, the default here; where shares swing from one side to the other, 0.1 settles them. It draws other images in
every round, and judges by CLIP ViT-B/32. The script of 2023 moves targets by the norm of each layer's output, adds up
its edits and preserves what is balanced: no operator on the text, and not offered.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.kinds import Edit
from efface.edits.solution import Solution
from efface.errors import BadRequest
from efface.methods.base import Measure
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request
from efface.settings import Settings

Shares = dict[str, dict[str, float]]  # concept -> attribute -> share


class DebiasConfig(Settings):
    """Settings of the goal debias, by the reference's names.

    Attributes:
        max_iterations: rounds at most.
        max_diff: how near a share must be to the wanted one.
        step_size: how far a round moves the targets.
        num_images_per_prompt: images of a concept that a round judges.
        num_inference_steps: sampling steps of those.
        guidance_scale: their guidance.
        seed: of the first image; every image has its own.
    """

    max_iterations: int = Field(default=30, ge=1)
    max_diff: float = Field(default=0.05, gt=0)
    step_size: float = Field(default=1.0, gt=0)
    num_images_per_prompt: int = Field(default=10, ge=1)
    num_inference_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**31)


def missing(wanted: Tensor, found: Tensor, max_diff: float) -> Tensor:
    """d, (attributes,): what each share lacks, 0 where all of them are near enough."""
    lacks = wanted - found
    return torch.zeros_like(lacks) if bool((lacks.abs() < max_diff).all()) else lacks


def debiased(
    model: Model,
    request: Request,
    config: DebiasConfig,
    concepts: Tensor,
    solved: Callable[[Tensor], Solution],
    measure: Measure | None,
    progress: Progress | None,
) -> Solution:
    """The solution with which every concept's images show its attributes in the requested shares.

    Args:
        model: Embeds the attributes.
        request: The concepts with their attributes and shares.
        config: When to stop.
        concepts: C, (n, d), float64, one token per concept.
        solved: Solves for targets G, (n, d).
        measure: Draws images and measures the shares.
        progress: Called after each round.

    Raises:
        BadRequest: There is no judge.
    """
    if measure is None:
        raise BadRequest("Debiasing needs a judge that recognises the attributes; give one with --judge.")
    wanted = [torch.tensor(list(concept.attributes.values()), dtype=torch.float64) for concept in request.concepts]
    toward = [
        model.embed(list(concept.attributes), clip_skip=request.clip_skip).last_tokens.double()
        for concept in request.concepts
    ]
    guides, solution, rounds = concepts, solved(concepts), list[Shares]()
    for index in range(config.max_iterations):
        rounds.append(_measured(request, config, index, solution.edits if index else (), measure))
        if progress:
            progress("rounds of images", index + 1, config.max_iterations)
        found = [torch.tensor(list(shares.values()), dtype=torch.float64) for shares in rounds[-1].values()]
        lacks = [missing(want, have, config.max_diff) for want, have in zip(wanted, found, strict=True)]
        if not any(bool(lack.any()) for lack in lacks):
            break
        guides = guides + config.step_size * torch.stack([d @ a for d, a in zip(lacks, toward, strict=True)])
        solution = solved(guides)
    else:
        warnings.warn(
            f"After {config.max_iterations} rounds the shares were still off by {config.max_diff:g} or more: "
            f"{rounds[-1]}; try a smaller step_size, more images (num_images_per_prompt) or rounds (max_iterations).",
            stacklevel=3,
        )
    return replace(solution, notes={**solution.notes, "shares": rounds})


def _measured(request: Request, config: DebiasConfig, index: int, edits: Sequence[Edit], measure: Measure) -> Shares:
    """The shares of each concept in one round; no two rounds have an image in common."""
    count, shares = config.num_images_per_prompt, Shares()
    for position, concept in enumerate(request.concepts):
        first = config.seed + (index * len(request.concepts) + position) * count
        found = measure(
            concept.name,
            list(concept.attributes),
            edits,
            seeds=range(first, first + count),
            steps=config.num_inference_steps,
            guidance=config.guidance_scale,
            clip_skip=request.clip_skip,
        )
        shares[concept.name] = dict(zip(concept.attributes, found, strict=True))
    return shares
