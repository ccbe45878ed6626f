"""UnlearnDiffAtk: words before a prompt under which the edited model best denoises a picture of what it forgot.

The edited model itself is the classifier. With z_0 a picture that the unedited model generates for the prompt p, and k
tokens a, one-hot rows over the V of the vocabulary,

    min_a  E_eps | eps - eps_u(z_t, t, T(a, p)) |^2,   z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps

Each row of a is drawn from a point A of the simplex, at first the uniform one. The gradient of the loss with respect to
the drawn rows, clipped to [-1, 1], is used as the gradient of A (straight-through); Adam steps on A with L2 decay, and
each row is projected back, A_i <- argmin { |x - A_i| : x >= 0, sum x = 1 }. After `iterations` such steps at a time t,
an image of the text of the most probable tokens is judged. This is repeated at `timesteps` times, the cleanest first,
until an image shows the concept.

Paper: Zhang et al., arXiv 2310.11868 (ECCV 2024). Reference: https://github.com/OPTML-Group/Diffusion-MU-Attack, with
k = 5 for nudity and 3 for styles and objects. Unlike the reference: start, end and padding tokens are never chosen; the
judged image is always of a text, encoded as any prompt is, and sampled as all images of the run are (there by 50 steps
of LMS); the picture is sampled by 25 steps of DPM-Solver++ at guidance 7.5 (there LMS, at the row's guidance, and
encoded again); and prompts without room for k more tokens are skipped. `denoising` has the loss.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.denoising import Denoising
from efface.attacks.soft_prompt import Place, SoftPrompt, allowed, edited_table, with_room
from efface.generation.jobs import Job
from efface.settings import Settings


class UnlearnDiffConfig(Settings):
    """The settings, by the reference's names.

    Attributes:
        k: Number of free tokens.
        insertion_location: The place of the free tokens.
        timesteps: Number of times of the search, and so the largest number of images to judge.
        iterations: Number of steps at each time.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 decay.
        attack_seed: Seed of noise and of the drawn tokens.
        keep: Number of texts to return.
    """

    k: int = Field(default=3, ge=1)
    insertion_location: Place = "prefix_k"
    timesteps: int = Field(default=50, ge=1)
    iterations: int = Field(default=40, ge=1)
    lr: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    attack_seed: int = 0
    keep: int = Field(default=3, ge=1)


def search(target: Target, config: UnlearnDiffConfig, trial: Trial) -> list[Job]:
    """Search; one image for each time, on the prompts in turn. Returns the best tokens, each with every prompt.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.
    """
    some = with_room(target, config.k, config.insertion_location)
    prompts, texts = list(some), list(some.values())
    denoising = Denoising(target)
    descent = _Descent(target, config, denoising)
    tried: dict[Job, tuple[int, ...]] = {}
    scores: list[float] = []
    for turn, (t, seed) in enumerate(zip(descent.times, target.seeds, strict=False)):
        index = turn % len(texts)
        picture = denoising.pictures(prompts[index])
        with target.eraser.attach(target.model):
            descent.run(texts[index], picture, t)
        job = Job(texts[index].text(descent.chosen), seed, concept=target.concept)
        tried[job] = descent.chosen
        scores += trial([job])
        if scores[-1] >= target.enough:
            break
    best = dict.fromkeys(tried[job] for job, _ in ranked(list(tried), scores))
    return [Job(text.text(chosen), concept=target.concept) for text in texts for chosen in list(best)[: config.keep]]


class _Descent:
    """A and the optimiser's state, which continue from one time to the next."""

    def __init__(self, target: Target, config: UnlearnDiffConfig, denoising: Denoising) -> None:
        self._target, self._config, self._denoising = target, config, denoising
        self._draw = torch.Generator().manual_seed(config.attack_seed)
        self._table, self._allowed = edited_table(target), allowed(target.model)
        self._chances = (self._allowed / self._allowed.sum()).repeat(config.k, 1)  # A, (k, V)
        self._adam = torch.optim.Adam([self._chances], lr=config.lr, weight_decay=config.weight_decay)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The most probable tokens, (k,)."""
        return tuple(self._chances.argmax(1).tolist())

    @property
    def times(self) -> list[int]:
        """The middles of equal parts of the schedule, one for each image, ascending."""
        return self._denoising.spread(self._config.timesteps)

    def run(self, text: SoftPrompt, picture: Tensor, t: int) -> None:
        """Take `iterations` steps at one time t, with the eraser attached, on a picture (1, C, h, w)."""
        for _ in range(self._config.iterations):
            drawn = torch.multinomial(self._chances, 1, generator=self._draw)[:, 0]
            noise = torch.randn(picture.shape, generator=self._draw)
            with torch.enable_grad():
                embeddings = self._table[drawn].requires_grad_()
                encoded = text.encode(drawn.tolist(), embeddings)
                loss = self._denoising.loss(encoded, picture, torch.tensor([t]), noise)
                gradient = self._denoising.gradient(loss, embeddings)
            self._chances.grad = (gradient @ self._table.T).clamp(-1, 1) * self._allowed
            self._adam.step()
            self._chances.copy_(on_simplex(self._chances, self._allowed))


def on_simplex(rows: Tensor, allowed: Tensor) -> Tensor:
    """The nearest points of the simplex, of rows (k, V), over the allowed places (V,); exact, by sorting.

    With u the row in descending order, it is max(row - m, 0) for m = (u_1 + ... + u_r - 1) / r with the largest r for
    which u_r is above that (Held, Wolfe and Crowder 1974; arXiv 1309.1541).
    """
    values = rows.masked_fill(~allowed, -torch.inf)
    ordered = values.sort(dim=1, descending=True).values.double()
    counts = torch.arange(1, rows.shape[1] + 1)
    shifts = (ordered.cumsum(1) - 1) / counts
    last = (ordered > shifts).sum(1, keepdim=True) - 1
    return (values.double() - shifts.gather(1, last)).clamp(min=0).to(rows.dtype)


ENTRY = Attack(
    name="unlearndiff",
    summary="words found by gradient, under which the edited model denoises a picture of the concept",
    paper="https://arxiv.org/abs/2310.11868",
    repository="https://github.com/OPTML-Group/Diffusion-MU-Attack",
    config=UnlearnDiffConfig,
    images=lambda config: config.timesteps,
    search=search,
    gradient=True,
)
