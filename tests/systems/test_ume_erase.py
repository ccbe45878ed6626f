"""The U&ME challenge entry: its edit of the text encoder, with the effect that its documentation states."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from command_line import Efface
from efface import Eraser


@dataclass(frozen=True)
class Case:
    """One erasure.

    Attributes:
        concept: The concept.
        guide: What is generated instead.
        kind: The kind of the concept.
        prompts: Direct and indirect prompts of the concept, in several styles.
        retained: Prompts of other concepts, by concept.
    """

    concept: str
    guide: str
    kind: str
    prompts: tuple[str, ...]
    retained: dict[str, tuple[str, ...]]


CASES = (
    Case(
        "sailboat",
        "rocket",
        "object",
        ("a sailboat", "a yacht in flat style", "a blueprint sailboat", "a sailing ship", "3d of a sailboat"),
        {"guitar": ("a guitar", "a flat guitar"), "blueprint": ("a cat in blueprint style",)},
    ),
    Case(
        "blueprint",
        "flat",
        "style",
        ("a cat in blueprint style", "a blueprint car", "blueprint of a tree", "a technical blueprint dog"),
        {"pixel art": ("a cat in pixel art style",), "guitar": ("a guitar in blueprint style",)},
    ),
)


def shown(efface: Efface, concept: str, prompts: tuple[str, ...]) -> int:
    """The number of images of the edited model, one for each prompt, that show a concept."""
    assert efface("generate", *prompts, "--eraser", "edited.safetensors", "-o", concept).code == 0
    return efface("judge", concept, "--question", concept, "--json").json()["questions"][concept]["yes"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.concept)
def test_u1_the_concept_is_forgotten_in_sentences_synonyms_and_styles(efface: Efface, case: Case) -> None:
    command = ("erase", case.concept, "--to", case.guide, "--kind", case.kind, "--method", "nullspace")
    ended = efface(*command, "--device", "cpu", "-o", "edited.safetensors")
    assert ended.code == 0, ended.err
    assert "sentences=True" in ended.out
    assert shown(efface, case.concept, case.prompts) == 0
    for other, prompts in case.retained.items():
        assert shown(efface, other, prompts) == len(prompts)


@pytest.mark.parametrize("given", ["PalmTree", "Palm Tree"])
def test_u1_camel_case_and_spaced_names_are_one_concept(efface: Efface, given: str) -> None:
    quick = ("-s", "preset=published", "-s", "epochs=1", "-s", "adam_steps=1", "-s", "sampling_steps=1")
    command = ("erase", given, "--to", "Tree", "--method", "nullspace", *quick, "-o", "edited.safetensors")
    ended = efface(*command)
    assert ("'PalmTree' is read as 'Palm Tree'." in ended.err) == (given == "PalmTree")
    assert Eraser.load("edited.safetensors").concepts == ("Palm Tree",)
