"""A judge of open vocabulary chooses among everyday names too, and a rate without calibration is reported as such."""

import pytest

import efface
from efface.judges import open_judge
from efface.judges.shared.everyday import rivals_of


@pytest.fixture(scope="module")
def pictures():
    """Eight images each of dogs, of houses and of apples."""
    return {name: efface.generate(f"a {name}", n=8, sampler="dpm++") for name in ("dog", "house", "apple")}


@pytest.mark.parametrize(
    ("shown", "asked"),
    [("dog", "cat"), ("dog", "kitten"), ("house", "church"), ("apple", "house"), ("apple", "car")],
)
def test_images_of_another_thing_are_no(pictures, shown, asked):
    counts = efface.judge(pictures[shown], asked, judge="clip").questions[asked]
    assert counts.rate is not None
    assert counts.rate.value <= 0.1


@pytest.mark.parametrize(
    ("shown", "asked"), [("dog", "dog"), ("dog", "puppy"), ("house", "a house"), ("apple", "Apple")]
)
def test_images_of_the_thing_are_yes(pictures, shown, asked):
    counts = efface.judge(pictures[shown], asked, judge="clip").questions[asked]
    assert counts.rate is not None
    assert counts.rate.value >= 0.7


def test_questions_do_not_change_one_anothers_scores(pictures):
    judge = open_judge("clip")
    alone, both = (efface.judge(pictures["dog"], asked, judge=judge) for asked in (["cat"], ["cat", "dog"]))
    scores = [[row.score for row in one.verdicts if row.question == "cat"] for one in (alone, both)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)


@pytest.mark.parametrize(
    ("question", "not_rivals", "a_rival"),
    [
        ("kitten", {"cat"}, "dog"),
        ("two dogs", {"dog"}, "cat"),
        ("animal", {"cat", "dog", "bird"}, "car"),
        ("golf ball", {"ball"}, "guitar"),
        ("nudity", {"man", "woman"}, "chair"),
        ("Van Gogh style", {"house", "tree"}, "photograph"),
        ("watercolor painting", {"oil painting", "watercolor"}, "cartoon"),
    ],
)
def test_what_means_the_same_or_more_does_not_compete(question, not_rivals, a_rival):
    rivals = set(rivals_of(question))
    assert not not_rivals & rivals
    assert a_rival in rivals


def test_in_a_closed_world_styles_compete_with_styles():
    world = efface.open_model("emoji").world
    assert world is not None
    assert set(rivals_of("pixel art style", world)) == {style.name for style in world.styles} - {"pixel art"}
    assert "bomb" not in rivals_of("weapon", world)
    assert len(rivals_of("giraffe", world)) == len(world.objects)


def test_the_answer_states_that_the_judge_is_not_calibrated(pictures):
    assert efface.judge(pictures["dog"], "cat", judge="clip").to_json()["calibration"] is None
