"""What the attacks that follow no gradient search for, and how searches are ranked."""

from dataclasses import replace

import pytest
import torch

import efface
from efface.attacks import Target
from efface.attacks.base import ranked
from efface.attacks.embedding_shift import EmbeddingShiftConfig, without
from efface.attacks.embedding_shift import search as shift
from efface.attacks.random_prefix import RandomPrefixConfig, vocabulary
from efface.attacks.random_prefix import search as prefix
from efface.edits.kinds import WeightEdit
from efface.errors import BadInput
from efface.generation import Embedding, Job, Sampling, sample
from efface.models import Model
from efface.tools import latents_of
from support import Trial

PROMPTS = ("a cat", "a picture of a cat")
SEEDS = range(1000, 1012)


@pytest.fixture
def target(tiny_model: Model) -> Target:
    eraser = efface.erase(tiny_model, "cat", "dog")
    return Target(tiny_model, eraser, "cat", PROMPTS, SEEDS, latents_of(tiny_model), ("red bird",))


def test_ranking_does_not_hang_on_what_a_batch_rounds() -> None:
    jobs = [Job("a"), Job("b"), Job("c"), Job("d")]
    assert [job.prompt for job, _ in ranked(jobs, [0.5, 0.9001, 0.9004, float("nan")])] == ["b", "c", "a"]


def test_prefixes_are_words_of_the_tokenizer_and_do_not_name_the_concept(target: Target) -> None:
    words = vocabulary(target.model, ("cat", "red bird"))
    assert {"dog", "horse"} <= set(words)
    assert not {"cat", "red", "bird", "a", "of"} & set(words)
    trial = Trial(by=lambda job: 0.5)
    prefix(target, RandomPrefixConfig(k=2), trial)
    for job in trial.jobs:
        printed = job.prompt.split()
        assert set(printed[:2]) <= set(words)
        assert " ".join(printed[2:]) in PROMPTS
    assert len({job.prompt for job in trial.jobs}) > 6


def test_the_best_prefixes_are_kept_with_every_prompt(target: Target) -> None:
    trial = Trial(by=lambda job: (job.seed - SEEDS[0]) / 20)
    found = prefix(target, RandomPrefixConfig(k=3, keep=2), trial)
    best = [" ".join(job.prompt.split()[:3]) for job in trial.jobs[:-3:-1]]
    assert [job.prompt for job in found] == [f"{words} {prompt}" for prompt in PROMPTS for words in best]


def test_the_shift_is_the_concepts_mean_direction(target: Target) -> None:
    def embedded(prompt: str) -> torch.Tensor:
        return target.model.embed([prompt]).tokens[0].double()

    pairs = [("cat", ""), ("a cat", "a"), ("a picture of a cat", "a picture of a")]
    direction = sum(embedded(one) - embedded(other) for one, other in pairs) / len(pairs)
    found = shift(target, EmbeddingShiftConfig(eta=(0.5, 3.0)), Trial(by=lambda job: float(job.seed % 2)))
    assert [job.prompt for job in found] == list(PROMPTS)
    for job in found:
        assert job.embedding
        torch.testing.assert_close(
            job.embedding.tokens.double(), embedded(job.prompt) + 3.0 * direction, atol=1e-5, rtol=1e-5
        )


def test_the_eta_with_the_best_mean_wins(target: Target) -> None:
    trial = Trial(by=lambda job: {0: 0.2, 1: 0.9, 2: 0.4}[(job.seed - SEEDS[0]) % 3])
    found = shift(target, EmbeddingShiftConfig(eta=(0.5, 1.5, 2.0)), trial)
    assert found[0].embedding == trial.jobs[1].embedding


def test_an_edited_text_encoder_is_not_gone_round(target: Target) -> None:
    name = next(name for name, _ in target.model.text_encoder.named_parameters() if name.endswith("fc2.weight"))
    delta = torch.ones_like(target.model.text_encoder.get_parameter(name))
    edited = replace(target.eraser, edits=(WeightEdit(f"text_encoder.{name}", delta=delta),))
    plain = shift(target, EmbeddingShiftConfig(), Trial(by=lambda job: 0.5))
    assert shift(replace(target, eraser=edited), EmbeddingShiftConfig(), Trial(by=lambda job: 0.5)) != plain


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [
        ("a photo of a Cat", "a photo of a"),
        ("cat", ""),
        ("art by VAN  GOGH", "art by VAN GOGH"),
        ("a catalogue of scattered cats", "a catalogue of scattered cats"),
    ],
)
def test_a_concept_is_taken_out_of_a_prompt_in_any_case(prompt: str, rest: str) -> None:
    assert without(prompt, "cat") == rest


def test_embeddings_are_equal_by_their_numbers() -> None:
    assert Embedding.of(torch.ones(2, 3)) == Embedding.of(torch.ones(2, 3).double())
    assert Embedding.of(torch.ones(2, 3)) != Embedding.of(torch.ones(3, 2))
    assert Job("a", embedding=Embedding.of(torch.ones(2, 3))) != Job("a")


def test_an_embedding_is_drawn_as_the_prompt_that_it_is_of(tiny_model: Model) -> None:
    tokens = tiny_model.embed(["a red dog"]).tokens[0]
    jobs = [Job("a red dog", 3), Job("anything", 3, embedding=Embedding.of(tokens))]
    made = dict(sample(tiny_model, jobs, Sampling(steps=2)))
    assert (made[0] == made[1]).all()


def test_settings_are_checked() -> None:
    with pytest.raises(BadInput):
        RandomPrefixConfig(k=0)
    with pytest.raises(BadInput):
        EmbeddingShiftConfig(eta=())
