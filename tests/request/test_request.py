from pathlib import Path

import pytest

from efface.errors import BadFile, BadInput, BadRequest
from efface.request.record import Concept, Request


def test_one_guide_serves_all_and_several_are_paired() -> None:
    assert [c.guide for c in Request.make(["cat", "dog"], "horse").concepts] == ["horse", "horse"]
    assert [c.guide for c in Request.make(["cat", "dog"], ["car", "house"]).concepts] == ["car", "house"]
    assert Request.make("cat").concepts[0].guide is None
    assert Request.make("cat", "").concepts[0].guide == ""


@pytest.mark.parametrize(("word", "kind"), [("art", "style"), ("memorization", "memorised"), ("nudity", "unsafe")])
def test_the_references_words_for_kinds_are_understood(word: str, kind: str) -> None:
    assert Request.make("x", kind=word).concepts[0].kind == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": ["cat", "dog"], "to": ["a", "b", "c"]}, "2 concepts but 3 guides"),
        ({"concepts": ["cat", "  "]}, "empty"),
        ({"concepts": []}, "at least one"),
        ({"concepts": ["cat", "Cat "]}, "twice"),
        ({"concepts": ["cat"], "preserve": ["dog", "Cat"]}, "both erased and preserved"),
        ({"concepts": ["cat"], "to": "cat"}, "concept itself"),
        ({"concepts": ["cat"], "kind": "animal"}, "kind"),
        ({"concepts": ["cat"], "clip_skip": -1}, "clip_skip"),
        ({"concepts": ["cat"], "goal": "forget"}, "goal"),
        ({"concepts": ["pet"], "goal": "debias"}, "'pet' needs attributes"),
        ({"concepts": ["pet"], "goal": "debias", "to": "cat"}, "two attributes or more"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "cat"]}, "occurs twice in cat, cat"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", " "]}, "in words"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "dog"], "options": {"shares": 1}}, "2 attributes but 1"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "dog"], "options": {"shares": "1,x"}}, "shares=0.5,0.5"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "dog"], "options": {"shares": "1,1"}}, "add up to 1"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "dog"], "options": {"shares": "2,-1"}}, "cat 2, dog -1"),
        ({"concepts": ["pet"], "goal": "debias", "to": ["cat", "dog"], "options": {"shares": "nan,1"}}, "finite"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        Request.make(**arguments)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)


def test_a_request_survives_its_file(tmp_path: Path) -> None:
    concept = Concept(name="golf ball", guide="", aliases=("ball",), adjacent=("soccer ball",), adversarial=("g",))
    request = Request(concepts=(concept,), preserve=("dög",), options={"lamb": 0.1, "variant": "window"}, clip_skip=1)
    request.to_yaml(tmp_path / "request.yaml")
    assert Request.from_yaml(tmp_path / "request.yaml") == request


def test_attributes_are_wanted_equally_often_unless_shares_are_given(tmp_path: Path) -> None:
    equal = Request.make(["pet", "animal"], ["cat", "dog"], goal="debias")
    assert [concept.attributes for concept in equal.concepts] == [{"cat": 0.5, "dog": 0.5}] * 2
    path = tmp_path / "request.yaml"
    path.write_text("goal: debias\nconcepts: [{name: pet, attributes: {cat: 0.3, dog: 0.7}}]\noptions: {lamb: 1}\n")
    for name in ("shares", "desired_ratios"):
        request = Request.make("pet", ["cat", "dog"], goal="debias", options={name: "0.3,0.7", "lamb": 1})
        assert request == Request.from_yaml(path)
        request.to_yaml(tmp_path / "again.yaml")
        assert Request.from_yaml(tmp_path / "again.yaml") == request


@pytest.mark.parametrize("content", ["{name: pet, guide: cat, attributes: {cat: 0.5, dog: 0.5}}", "pet"])
def test_a_goal_has_what_it_needs_and_nothing_else(tmp_path: Path, content: str) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(f"goal: debias\nconcepts: [{content}]\n")
    with pytest.raises(BadRequest, match="'pet' needs attributes, and no guide"):
        Request.from_yaml(path)
    path.write_text("concepts: [{name: pet, attributes: {cat: 0.5, dog: 0.5}}]\n")
    with pytest.raises(BadRequest, match="to be erased it has a guide at most"):
        Request.from_yaml(path)


def test_plain_words_stand_for_concepts_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    path.write_text("concepts: [cat, {name: dog, guide: horse}]\npreserve: [house]\n")
    assert Request.from_yaml(path).concepts == (Concept(name="cat"), Concept(name="dog", guide="horse"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("concepts: [cat", BadFile),
        ("- cat", BadRequest),
        ("concept: cat", BadRequest),
        ("concepts: [cat]\npreserved: [dog]", BadRequest),
        ("concepts: 3", BadRequest),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, error: type[BadInput]) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(content)
    with pytest.raises(error) as caught:
        Request.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.yaml"):
        Request.from_yaml(tmp_path / "none.yaml")


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="preserve"):
        Request.model_validate({"concepts": ["cat"], "keep": ["dog"]})


def test_keeping_some_concepts() -> None:
    request = Request.make(["cat", "dog", "car"])
    assert request.keeping(["car", "Cat"]).names == ("cat", "car")
    with pytest.raises(BadRequest, match="no concept 'cow'"):
        request.keeping(["cow"])
    with pytest.raises(BadRequest, match="leaves no concept"):
        request.keeping([])
