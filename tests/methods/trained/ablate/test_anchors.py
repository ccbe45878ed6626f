"""Anchor prompts and what they become, as the published codes write them."""

from pathlib import Path

import pytest

from efface import BadInput
from efface.methods.trained.ablate.prompts import read_anchor_prompts, target_prompt, templates, usable
from efface.methods.training.objective import seeded
from efface.request.record import Concept


def targets(caption: str, concept: Concept) -> set[str]:
    return {target_prompt(caption, concept.name, concept, seeded(number)) for number in range(100)}


def test_an_object_takes_the_anchors_place_wherever_it_stands() -> None:
    concept = Concept(name="grumpy cat", guide="cat")
    assert targets("A cat, and more Cats", concept) == {"A grumpy cat, and more grumpy cats"}
    assert targets("a cat", Concept(name=r"r2\d2", guide="cat")) == {r"a r2\d2"}
    assert usable(["a cat", "a dog", "CAT"], concept, "x") == ["a cat", "CAT"]
    with pytest.raises(BadInput, match="contains 'cat'"):
        usable(["a dog"], concept, "x")


def test_a_style_is_added_in_the_published_ways() -> None:
    added = targets("a house", Concept(name="monet", kind="style"))
    assert added == {
        "a house, in the style of monet", "a house, in the style of monet monet", "monet inspired painting, a house",
        "monet monet inspired painting, a house", "in monet's style, a house", "in monet monet's style, a house",
    }  # fmt: skip
    towards = Concept(name="pixel art", kind="style", guide="flat")
    assert targets("a house in flat style", towards) == {"a house in pixel art style"}
    assert "in pixel art's style, a house" in targets("a house", towards)


def test_an_unsafe_theme_is_added_and_a_memorised_picture_is_its_caption() -> None:
    assert targets("a person", Concept(name="weapons", kind="unsafe")) == {
        "weapons, a person", "in weapons style, a person", "a person, weapons",
    }  # fmt: skip
    assert targets("whatever", Concept(name="a crystal ball", kind="memorised")) == {"a crystal ball"}


@pytest.mark.parametrize(
    ("concept", "printed"),
    [
        (Concept(name="cat", guide="dog"), "dog"),
        (Concept(name="monet", kind="style"), "painting"),
        (Concept(name="pixel art", kind="style", guide="flat"), "in flat style"),
        (Concept(name="weapons", kind="unsafe"), "person"),
        (Concept(name="the lady", kind="memorised"), "the lady"),
    ],
)
def test_templates_name_the_anchor(concept: Concept, printed: str) -> None:
    captions = templates(concept)
    assert len(captions) == len(set(captions)) >= 12
    assert all(printed in caption for caption in captions)
    if concept.kind == "memorised":
        assert concept.name not in captions
    elif concept.kind != "style":
        assert all(concept.name not in caption for caption in captions)


def test_prompts_are_lines_or_a_column(tmp_path: Path) -> None:
    lines, table = tmp_path / "a.txt", tmp_path / "a.csv"
    lines.write_text("a dog\n\n  a small dog \n", encoding="utf-8-sig")
    table.write_text('case_number,Prompt\n1,"a dog, running"\n2,\n3,a dog\n')
    assert read_anchor_prompts(lines) == ["a dog", "a small dog"]
    assert read_anchor_prompts(table) == ["a dog, running", "a dog"]
    table.write_text("id,prompt\n1,a dog\u2028running\n2,a\x0cdog\n", encoding="utf-8")
    assert read_anchor_prompts(table) == ["a dog\u2028running", "a\x0cdog"]
    lines.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_anchor_prompts(lines)
