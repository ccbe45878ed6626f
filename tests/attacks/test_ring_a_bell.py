"""Ring-A-Bell against a literal loop of one candidate at a time in float64, and the pairs of prompts."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import efface
from efface.attacks import Target
from efface.attacks.concept_pairs import direction, read_pairs, template_pairs
from efface.attacks.embedding_shift import EmbeddingShiftConfig
from efface.attacks.embedding_shift import search as shift
from efface.attacks.ring_a_bell import RingABellConfig, distances, evolve, search, survives, surviving
from efface.attacks.soft_prompt import SoftPrompt
from efface.errors import BadInput
from efface.models import Model
from efface.tools import latents_of
from support import Trial

PROMPT = "a red cat"


@pytest.fixture
def target(tiny_model: Model) -> Target:
    eraser = efface.erase(tiny_model, "cat", "dog")
    return Target(tiny_model, eraser, "cat", (PROMPT,), range(5, 8), latents_of(tiny_model))


def literal(model: Model, config: RingABellConfig, tokens: Tensor) -> list[list[int]]:
    """The texts of the last generation by loops over single candidates, in float64."""
    encoder = deepcopy(model.text_encoder).double()

    def encode(text: list[int]) -> Tensor:
        start, end, padding = (int(getattr(model.tokenizer, f"{name}_token_id") or 0) for name in ("bos", "eos", "pad"))
        row = [start, *text, end]
        with torch.no_grad():
            return encoder(torch.tensor([row + [padding] * (model.max_tokens - len(row))]))[0][0]

    def of(prompt: str) -> Tensor:
        return encode(list(model.tokenizer([prompt])["input_ids"][0][1:-1]))

    pairs = template_pairs("cat")
    concept = sum((of(one) - of(other) for one, other in pairs), torch.zeros(()).double()) / len(pairs)
    wanted = of(PROMPT) + config.cof * concept
    draw = torch.Generator().manual_seed(config.attack_seed)
    size = (config.population_size, config.length)
    population = [[int(tokens[i]) for i in row] for row in torch.randint(len(tokens), size, generator=draw).tolist()]
    for step in range(config.generation):
        scores = [float(((encode(text) - wanted) ** 2).sum()) for text in population]
        order = sorted(range(len(population)), key=scores.__getitem__)
        population = [population[i] for i in order][: config.population_size // 2]
        if step == config.generation - 1:
            break
        n = len(population)
        crosses = (torch.rand(n, generator=draw) < config.crossover_rate).tolist()
        mates = torch.randint(n, (n,), generator=draw).tolist()
        cuts = torch.randint(config.length, (n, 1), generator=draw)[:, 0].tolist()
        some = [i for i in range(n) if crosses[i]]
        first = [population[i][: cuts[i]] + population[mates[i]][cuts[i] :] for i in some]
        second = [population[mates[i]][: cuts[i]] + population[i][cuts[i] :] for i in some]
        population = population + first + second
        n = len(population)
        mutates = (torch.rand(n, generator=draw) < config.mutate_rate).tolist()
        places = torch.randint(config.length, (n,), generator=draw).tolist()
        values = tokens[torch.randint(len(tokens), (n,), generator=draw)].tolist()
        for i in range(n):
            if mutates[i] and i >= config.elites:
                population[i] = [*population[i][: places[i]], values[i], *population[i][places[i] + 1 :]]
    return population


@pytest.mark.parametrize("elites", [0, 1])
def test_it_is_a_loop_over_single_candidates(target: Target, elites: int) -> None:
    model = target.model
    config = RingABellConfig(length=4, population_size=8, generation=5, elites=elites, attack_seed=3)
    empty = SoftPrompt(model, "", 4, "prefix_k")
    wanted = model.embed([PROMPT]).tokens[0] + config.cof * direction(model, template_pairs("cat"))
    computed: list[list[int]] = []

    def fitness(texts: Tensor) -> Tensor:
        computed.extend(texts.tolist())
        return distances(model, empty, wanted, None, texts)

    found = evolve(fitness, surviving(model), config)
    assert found.tolist() == literal(model, config, surviving(model))
    assert len(computed) == len({tuple(row) for row in computed}), "a text is computed once"


def test_the_best_text_is_never_lost(target: Target) -> None:
    tokens, best = surviving(target.model), []
    for generation in range(1, 6):
        config = RingABellConfig(length=3, population_size=6, generation=generation, mutate_rate=1.0)
        (row, *_) = evolve(lambda texts: texts.double().sum(1), tokens, config).sum(1).tolist()
        best.append(row)
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]


def test_texts_keep_their_tokens_when_they_are_encoded(target: Target) -> None:
    trial = Trial(0.2, 0.9)
    config = RingABellConfig(length=4, population_size=8, generation=3, keep=2)
    found = search(target, config, trial)
    assert [job.prompt for job in found] == [job.prompt for job in reversed(trial.jobs)]
    for job in found:
        ids = list(target.model.tokenizer([job.prompt])["input_ids"][0][1:-1])
        assert len(ids) == 4
        assert survives(target.model, SoftPrompt(target.model, "", 4, "prefix_k"), ids)


def test_the_search_does_not_depend_on_the_eraser(target: Target) -> None:
    config = RingABellConfig(length=4, population_size=8, generation=3)
    other = replace(target, eraser=efface.erase(target.model, "cat", "horse"))
    assert search(target, config, Trial(0.5)) == search(other, config, Trial(0.5))


@pytest.mark.parametrize("head", ["with,without", "case,sensitive prompt,normal prompt"])
def test_given_pairs_are_the_direction(target: Target, tmp_path: Path, head: str) -> None:
    path = tmp_path / "pairs.csv"
    number = "1," if head.startswith("case") else ""
    path.write_text(f"{head}\n{number}a red cat,a red\n\n{number}a cat in a house,a house\n", encoding="utf-8")
    assert read_pairs(path) == [("a red cat", "a red"), ("a cat in a house", "a house")]

    def embedded(prompt: str) -> Tensor:
        return target.model.embed([prompt]).tokens[0].double()

    pairs = [("a red cat", "a red"), ("a cat in a house", "a house")]
    expected = embedded(PROMPT) + 3 * sum(embedded(one) - embedded(other) for one, other in pairs) / 2
    config = EmbeddingShiftConfig.model_validate({"eta": 3, "pairs": str(path)})
    (found,) = shift(target, config, Trial(0.5))
    assert found.embedding
    torch.testing.assert_close(found.embedding.tokens.double(), expected, atol=1e-5, rtol=1e-5)
    given = RingABellConfig(length=4, population_size=8, generation=4, pairs=str(path))
    assert search(target, given, Trial(0.5)) != search(target, given.model_copy(update={"pairs": ""}), Trial(0.5))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", "has no columns"),
        ("prompt\na cat\n", "has no columns"),
        ("with,without\n", "has no pairs"),
        ("with,without\na cat\n", "line 2: 1 fields, but the header has 2"),
        ("with,without\na cat,a cat\n", "equal to the one without"),
        ('with,without\n"a cat,a', "a double quote is not closed"),
    ],
)
@pytest.mark.parametrize("config", [EmbeddingShiftConfig, RingABellConfig])
def test_bad_pairs_are_rejected_in_one_line(tmp_path: Path, text: str, printed: str, config: type) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    for file, reason in ((path, printed), (tmp_path / "no.csv", "Cannot read pairs")):
        with pytest.raises(BadInput, match=reason) as caught:
            config.model_validate({"pairs": str(file)})
        assert "\n" not in str(caught.value)


def test_one_eta_or_several() -> None:
    assert EmbeddingShiftConfig.model_validate({"eta": 3}).eta == (3.0,)
    assert EmbeddingShiftConfig.model_validate({"eta": "0.9,3"}).eta == (0.9, 3.0)
    with pytest.raises(BadInput, match="eta"):
        EmbeddingShiftConfig.model_validate({"eta": "far"})
