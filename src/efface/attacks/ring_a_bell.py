"""Ring-A-Bell: a text that the text encoder reads as the prompt with more of the concept, by a genetic search.

    c = mean_i [ T(p_i with the concept) - T(p_i without) ],   y = T(prompt) + eta c
    min_s  | T(start, s_1 ... s_K, end, padding) - y |^2        summed over all tokens and coordinates

T is the unedited model's text encoder, so the search needs no denoiser, and one text attacks every eraser. Of a
population of texts, the better half are the parents of a generation. With probability `crossover_rate`, a parent and
another one, drawn at random, exchange their tokens from a random place on, which adds two children. Then, with
probability `mutate_rate`, one token of a text is replaced by a random one.

Paper: Tsai et al., arXiv 2310.10012 (ICLR 2024). Reference: https://github.com/chiayi-hsu/Ring-A-Bell, with K = 16
(also 38 and 75), eta = 3 (5 and 5.5 for violence), 200 texts and 3000 generations. Unlike the reference:
- The best `elites` texts are not mutated, so the best text is never lost; `elites=0` is the reference.
- Tokens are those that are the same after decoding and encoding, so the judged text is the text that was found.
- The new texts of a generation are encoded in one batch, each different text once in a search. The result is the same.
- Without `pairs`, c is of benign templates, such as "a picture of a church" against "a picture". The reference has
  pairs for nudity and violence and discards those whose images a detector does not confirm.

Shapes: n texts, K tokens of a text, T tokens of a prompt, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import torch
from pydantic import Field
from torch import Tensor

from efface.attacks.base import Attack, Target, Trial, ranked
from efface.attacks.concept_pairs import PairsFile, direction, read_pairs, template_pairs
from efface.attacks.soft_prompt import SoftPrompt, allowed
from efface.generation.jobs import Job
from efface.models import Model
from efface.settings import Settings

_BATCH = 256  # texts of one forward pass
#: Takes texts (n, K) and returns the distance of each, (n,).
Fitness = Callable[[Tensor], Tensor]


class RingABellConfig(Settings):
    """The settings, by the reference's names.

    Attributes:
        length: Number of tokens K.
        cof: The multiple eta of the concept's direction.
        population_size: Number of texts at the start; half of them are the parents of a generation.
        generation: Number of generations.
        mutate_rate: Probability that a text is mutated.
        crossover_rate: Probability that a parent has two children.
        elites: Number of the best texts that are not mutated.
        pairs: A CSV of pairs of prompts, with and without the concept, in place of the templates.
        keep: Number of the best texts to judge.
        attack_seed: Seed of the search.
    """

    length: int = Field(default=16, ge=1)
    cof: float = 3.0
    population_size: int = Field(default=200, ge=2)
    generation: int = Field(default=3000, ge=1)
    mutate_rate: float = Field(default=0.25, ge=0, le=1)
    crossover_rate: float = Field(default=0.5, ge=0, le=1)
    elites: int = Field(default=1, ge=0)
    pairs: PairsFile = ""
    keep: int = Field(default=1, ge=1)
    attack_seed: int = 0


def search(target: Target, config: RingABellConfig, trial: Trial) -> list[Job]:
    """Search a text for each prompt that the seeds allow. Returns the texts, the best first.

    Args:
        target: What is attacked.
        config: The settings.
        trial: Generates and judges images.

    Raises:
        BadRequest: The model's prompts have no room for K tokens.
    """
    model = target.model
    empty = SoftPrompt(model, "", config.length, "prefix_k", target.clip_skip)
    pairs = read_pairs(config.pairs) if config.pairs else template_pairs(target.concept)
    added = direction(model, pairs, target.clip_skip)
    tokens, seeds = surviving(model), iter(target.seeds)
    jobs: list[Job] = []
    for prompt in target.prompts:
        if not (judged := list(islice(seeds, config.keep))):
            break
        wanted = model.embed([prompt], clip_skip=target.clip_skip, truncate=True).tokens[0] + config.cof * added
        population = evolve(partial(distances, model, empty, wanted, target.clip_skip), tokens, config)
        texts = dict.fromkeys(empty.text(row) for row in population.tolist() if survives(model, empty, row))
        jobs += [Job(text, seed, concept=target.concept) for text, seed in zip(texts, judged, strict=False)]
    best = dict.fromkeys(job.prompt for job, _ in ranked(jobs, trial(jobs)))
    return [Job(text, concept=target.concept) for text in best]


def surviving(model: Model) -> Tensor:
    """The tokens that, alone, are the same after decoding and encoding, (V',), ascending.

    Raises:
        RuntimeError: There are none.
    """
    ids: list[int] = allowed(model).nonzero()[:, 0].tolist()
    texts = [str(model.tokenizer.decode([token])).strip() for token in ids]
    rows: Sequence[Sequence[int]] = model.tokenizer(texts)["input_ids"]
    words = [token for token, row in zip(ids, rows, strict=True) if list(row[1:-1]) == [token]]
    if not words:
        raise RuntimeError(f"no token of {model.name} is a word of its own")
    return torch.tensor(words)


def survives(model: Model, empty: SoftPrompt, row: Sequence[int]) -> bool:
    """Whether the text of K tokens has these tokens when it is encoded.

    Args:
        model: The model.
        empty: The K free tokens without a prompt.
        row: The tokens.
    """
    return list(model.tokenizer([empty.text(row)])["input_ids"][0][1:-1]) == list(row)


@torch.no_grad()
def distances(model: Model, empty: SoftPrompt, wanted: Tensor, clip_skip: int | None, texts: Tensor) -> Tensor:
    """The squared distance of each text (n, K) from the wanted embedding y, (n,), float32, on the CPU.

    Args:
        model: The model.
        empty: The K free tokens without a prompt.
        wanted: The embedding y, (T, d).
        clip_skip: Number of the text encoder's last layers to skip.
        texts: The texts, (n, K).
    """
    frame = empty.ids(texts[0].tolist()).repeat(len(texts), 1)
    frame[:, empty.free] = texts
    parts: list[Tensor] = []
    for ids in frame.split(_BATCH):
        encoded = model.encode(ids, clip_skip=clip_skip).float()
        parts.append((encoded - wanted.to(encoded)).square().sum(dim=(1, 2)).cpu())
    return torch.cat(parts)


def evolve(fitness: Fitness, tokens: Tensor, config: RingABellConfig) -> Tensor:
    """The better half of the last generation, (n, K), the best first.

    Args:
        fitness: Takes texts (n, K) and returns the distance of each, (n,).
        tokens: The tokens to choose from, (V',).
        config: The settings.
    """
    draw = torch.Generator().manual_seed(config.attack_seed)
    size = (config.population_size, config.length)
    population = tokens[torch.randint(len(tokens), size, generator=draw)]
    known = KnownDistances(fitness)
    for step in range(config.generation):
        order = known.of(population).argsort(stable=True)
        population = population[order[: config.population_size // 2]]
        if step < config.generation - 1:
            population = mutated(crossed(population, config.crossover_rate, draw), tokens, config, draw)
    return population


class KnownDistances:
    """Distances of texts; each different text of a search is computed once.

    Args:
        fitness: Takes texts (n, K) and returns the distance of each, (n,).
    """

    def __init__(self, fitness: Fitness) -> None:
        self._fitness = fitness
        self._known: dict[tuple[int, ...], float] = {}

    def of(self, texts: Tensor) -> Tensor:
        """The distances of texts (n, K), (n,)."""
        rows = [tuple(row) for row in texts.tolist()]
        new = {row: index for index, row in enumerate(rows) if row not in self._known}
        if new:
            values: list[float] = self._fitness(texts[list(new.values())]).tolist()
            self._known.update(zip(new, values, strict=True))
        return torch.tensor([self._known[row] for row in rows], dtype=torch.float64)


def crossed(parents: Tensor, rate: float, draw: torch.Generator) -> Tensor:
    """The parents (n, K), and after them two children of each of m parents, (n + 2m, K).

    Args:
        parents: The parents, the best first.
        rate: The probability of children.
        draw: The random numbers.
    """
    n, length = parents.shape
    has = torch.rand(n, generator=draw) < rate
    mates = parents[torch.randint(n, (n,), generator=draw)]
    cuts = torch.randint(length, (n, 1), generator=draw)  # tokens before the cut; the reference cuts after the start
    before = torch.arange(length) < cuts
    children = (torch.where(before, parents, mates), torch.where(before, mates, parents))
    return torch.cat([parents, *(some[has] for some in children)])


def mutated(texts: Tensor, tokens: Tensor, config: RingABellConfig, draw: torch.Generator) -> Tensor:
    """Texts (n, K), some with one random token; the first `elites` do not change.

    Args:
        texts: Parents, the best first, with their children.
        tokens: The tokens to choose from, (V',).
        config: The settings.
        draw: The random numbers.
    """
    n, length = texts.shape
    changes = torch.rand(n, generator=draw) < config.mutate_rate
    places = torch.randint(length, (n,), generator=draw)
    values = tokens[torch.randint(len(tokens), (n,), generator=draw)]
    changes[: config.elites] = False
    mutants = texts.clone()
    mutants[changes, places[changes]] = values[changes]
    return mutants


ENTRY = Attack(
    name="ring_a_bell",
    summary="a text that is encoded like the prompt with more of the concept, by a genetic search",
    paper="https://arxiv.org/abs/2310.10012",
    repository="https://github.com/chiayi-hsu/Ring-A-Bell",
    config=RingABellConfig,
    images=lambda config: config.keep,
    search=search,
    encodes=True,
)
