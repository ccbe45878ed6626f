"""P4D's search: free tokens by gradient, read as their nearest words, under which the edited model predicts as before.

    L(P) = mean | eps_u(x_t, t, T(proj P, prompt)) - eps_o(x_t, t, T(prompt)) |^2

eps_o is the unedited model's prediction for the prompt, eps_u the edited model's for the text with the free tokens. P
has one embedding for each free token. `proj` replaces it by the token embedding with the largest cosine similarity; the
gradient of the loss at proj P is the gradient of the step on P.

References hold two denoisers, and call both in every step. eps_o depends on neither P nor the eraser. Therefore it is
computed before the eraser is attached, for many noisy latents in one batch, by the same denoiser, and stored: a search
has one denoiser in memory. Its steps use no autoencoder, since its pictures are latents; the judged images use it. A
gradient at the same tokens and noisy latents is not computed again.

Shapes: n noisy latents, C latent channels, h and w latent size, T tokens, k free tokens, V vocabulary, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.attacks.base import Target, Trial
from efface.attacks.denoising import Denoising
from efface.attacks.soft_prompt import SoftPrompt, allowed, edited_table
from efface.generation.jobs import Job

_BATCH = 16  # predictions of the unedited model in one forward pass

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


class ProjectedTokens:
    """Embeddings P (k, d) of free tokens, at first those of random tokens, and the tokens nearest to them.

    Args:
        target: What is attacked.
        k: Number of free tokens.
        optimizer: Makes the optimiser of P.
        draw: The random numbers.
    """

    def __init__(self, target: Target, k: int, optimizer: MakeOptimizer, draw: torch.Generator) -> None:
        self._table = edited_table(target)
        free = allowed(target.model)
        # Division by an infinite norm excludes a token without a copy of the table.
        self._norms = self._table.norm(dim=1).masked_fill(~free, torch.inf)
        ids = free.nonzero()[:, 0]
        self._embeddings = self._table[ids[torch.randint(len(ids), (k,), generator=draw)]].clone()
        self._optimizer = optimizer([self._embeddings])

    @property
    def chosen(self) -> tuple[int, ...]:
        """The nearest tokens, (k,)."""
        similarities = (self._embeddings @ self._table.T) / self._norms
        excluded = torch.isinf(self._norms)
        return tuple(similarities.masked_fill(excluded, -torch.inf).argmax(1).tolist())

    def nearest(self, chosen: Sequence[int]) -> Tensor:
        """The embeddings of chosen tokens, (k, d), as a leaf for gradients."""
        return self._table[list(chosen)].requires_grad_()

    def step(self, gradient: Tensor) -> None:
        """Take one step on P with the gradient at the nearest tokens, (k, d)."""
        self._embeddings.grad = gradient
        self._optimizer.step()


@dataclass(frozen=True, eq=False)
class Expected:
    """Noisy latents of a picture, and the unedited model's predictions.

    Attributes:
        noisy: The latents x_t, (n, C, h, w).
        times: Their timesteps, (n,).
        predictions: The predictions eps_o, (n, C, h, w).
    """

    noisy: Tensor
    times: Tensor
    predictions: Tensor


class Matching:
    """The loss L of one target.

    With a guard on the edited model, both predictions are guided, since a guard changes guidance.

    Args:
        target: The model, its eraser and the seeds.
    """

    def __init__(self, target: Target) -> None:
        # Two, since each caches the empty prompt of guidance, which an eraser may edit.
        self._edited, self._unedited = Denoising(target), Denoising(target)
        self._target = target

    @property
    def length(self) -> int:
        """Number of timesteps of the schedule."""
        return self._edited.length

    @torch.no_grad()
    def expected(self, prompt: str, times: Tensor, draw: torch.Generator) -> Expected:
        """Noisy latents of the prompt's picture and their predictions, without the eraser.

        Args:
            prompt: The prompt.
            times: Timesteps, (n,).
            draw: The random numbers of the noise.
        """
        picture = self._unedited.pictures(prompt)
        noise = torch.randn((len(times), *picture.shape[1:]), generator=draw)
        noisy = self._unedited.noisy(picture.expand(len(times), -1, -1, -1), times, noise)
        text = self._target.model.embed([prompt], clip_skip=self._target.clip_skip, truncate=True).tokens
        parts = zip(noisy.split(_BATCH), times.split(_BATCH), strict=True)
        return Expected(noisy, times, torch.cat([self._unedited.predicted(x, t, text).cpu() for x, t in parts]))

    def gradient(self, expected: Expected, row: int, text: SoftPrompt, chosen: Sequence[int], leaf: Tensor) -> Tensor:
        """The gradient of L by the embeddings (k, d) of the chosen tokens, (k, d), with the eraser attached.

        Args:
            expected: Noisy latents and predictions.
            row: Which of them.
            text: The text with free tokens.
            chosen: The k tokens.
            leaf: Their embeddings, (k, d).
        """
        part = slice(row, row + 1)
        with torch.enable_grad():
            encoded = text.encode(chosen, leaf)
            prediction = self._edited.predicted(expected.noisy[part], expected.times[part], encoded)
            loss = (prediction - expected.predictions[part].to(prediction)).square().mean()
            return self._edited.gradient(loss, leaf)


def descend(matching: Matching, tokens: ProjectedTokens, text: SoftPrompt, expected: Expected, steps: int) -> None:
    """Take steps on the tokens, on the noisy latents in turn, with the eraser attached.

    Args:
        matching: The loss.
        tokens: The free tokens.
        text: The text with free tokens.
        expected: Noisy latents and predictions.
        steps: Number of steps.
    """
    known: dict[tuple[tuple[int, ...], int], Tensor] = {}
    for step in range(steps):
        key = tokens.chosen, step % len(expected.times)
        if key not in known:
            known[key] = matching.gradient(expected, key[1], text, key[0], tokens.nearest(key[0]))
        tokens.step(known[key])


def search_tokens(
    target: Target,
    trial: Trial,
    texts: Mapping[str, SoftPrompt],
    tokens: Mapping[str, ProjectedTokens],
    times: Sequence[Tensor],
    steps: int,
    draw: torch.Generator,
) -> tuple[list[tuple[Job, tuple[int, ...]]], list[float]]:
    """Alternate between steps and one image, on the prompts in turn, until an image shows the concept.

    Args:
        target: What is attacked.
        trial: Generates and judges images.
        texts: The text with free tokens of each prompt.
        tokens: The free tokens of each prompt.
        times: For each image, the timesteps of the noisy latents of the steps before it, (n,).
        steps: Number of steps before an image.
        draw: The random numbers of the noise.

    Returns:
        The jobs with their tokens, and the score of each.
    """
    matching, prompts = Matching(target), list(texts)
    tried: list[tuple[Job, tuple[int, ...]]] = []
    scores: list[float] = []
    for turn, (some, seed) in enumerate(zip(times, target.seeds, strict=False)):
        prompt = prompts[turn % len(prompts)]
        expected = matching.expected(prompt, some, draw)
        with target.eraser.attach(target.model):
            descend(matching, tokens[prompt], texts[prompt], expected, steps)
        chosen = tokens[prompt].chosen
        tried.append((Job(texts[prompt].text(chosen), seed, concept=target.concept), chosen))
        scores += trial([tried[-1][0]])
        if scores[-1] >= target.enough:
            break
    return tried, scores
