"""UCE's debiasing: each concept is moved towards the attributes that its images show too rarely.

The images are measured again after each move, until the shares are as requested.

With the concepts' tokens c_i, the attributes' tokens a_k, wanted shares w_k and measured shares r_ik:

    d_ik = w_k - r_ik, or all 0 for a concept whose shares all differ by less than max_diff
    v_i <- v_i + step_size sum_k d_ik W a_k,   v_i = W c_i at first;   W' = UCE of W with the targets v_i

This repeats until every d is 0. The v_i accumulate over the rounds, so that the iteration converges, while W' is solved
from the original W in each round. Since v_i = W g_i with g_i <- g_i + step_size sum_k d_ik a_k, the result is one
operator on the text, like every edit of uce. All tokens are last subject tokens.

Paper: https://arxiv.org/abs/2308.14761. Reference: trainscripts/uce_sd_debias.py (2025) of
https://github.com/rohitgandikota/unified-concept-editing. It never reads its argument `step_size`,
0.1, so its step is 1, the default here; use 0.1 if the shares oscillate. It generates new images in every round and
judges them by CLIP ViT-B/32. The script of 2023 scales the targets by the norm of each layer's output, adds up its
edits and preserves balanced concepts. That is not an operator on the text, and is not implemented.
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
        max_iterations: The largest number of rounds.
        max_diff: The largest accepted difference between a measured and a requested share.
        step_size: The step by which a round moves the targets.
        num_images_per_prompt: The number of images of each concept that a round judges.
        num_inference_steps: The number of sampling steps of an image.
        guidance_scale: The guidance scale of an image.
        seed: The seed of the first image. Every image has another seed.
    """

    max_iterations: int = Field(default=30, ge=1)
    max_diff: float = Field(default=0.05, gt=0)
    step_size: float = Field(default=1.0, gt=0)
    num_images_per_prompt: int = Field(default=10, ge=1)
    num_inference_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**31)


def missing(wanted: Tensor, measured: Tensor, max_diff: float) -> Tensor:
    """The difference d of each share from the requested one; zero if all shares are close enough.

    Args:
        wanted: The requested shares, (attributes,).
        measured: The measured shares, (attributes,).
        max_diff: The largest accepted difference.

    Returns:
        The differences, (attributes,).
    """
    lacks = wanted - measured
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
    """Solve until the images of every concept show its attributes in the requested shares.

    Args:
        model: The model, which embeds the attributes.
        request: The concepts with their attributes and shares.
        config: The settings.
        concepts: The tokens C, (n, d), float64, one per concept.
        solved: Solves for targets G, (n, d).
        measure: Generates images and measures the shares.
        progress: Called after each round.

    Raises:
        BadRequest: `measure` is None, since there is no judge.
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
        measured = [torch.tensor(list(shares.values()), dtype=torch.float64) for shares in rounds[-1].values()]
        lacks = [missing(want, have, config.max_diff) for want, have in zip(wanted, measured, strict=True)]
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
    """The shares of each concept in one round. Every round has its own seeds."""
    count, shares = config.num_images_per_prompt, Shares()
    for position, concept in enumerate(request.concepts):
        first = config.seed + (index * len(request.concepts) + position) * count
        measured = measure(
            concept.name,
            list(concept.attributes),
            edits,
            seeds=range(first, first + count),
            steps=config.num_inference_steps,
            guidance=config.guidance_scale,
            clip_skip=request.clip_skip,
        )
        shares[concept.name] = dict(zip(concept.attributes, measured, strict=True))
    return shares
