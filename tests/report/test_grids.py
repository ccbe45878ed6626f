from dataclasses import replace

from efface.protocols import BASE, Probe
from efface.report.grids import failures, groups, unanswered


def test_a_tile_shows_one_prompt_and_seed_without_and_with_every_eraser(evaluation):
    forget, retain = groups(evaluation(erasers=3))
    assert forget.title == "Prompted for “cat”"
    assert retain.title == "The rest, which should stay"
    assert forget.columns == 4
    assert [picture.of.title for picture in forget.tiles[0].pictures] == ["before", "eraser", "second", "third"]
    assert forget.note == "8 of 20 images, spread over the prompts"


def test_a_single_eraser_is_what_comes_after(evaluation):
    tile = next(groups(evaluation())).tiles[0]
    assert [picture.of.title for picture in tile.pictures] == ["before", "after"]
    assert [picture.seen for picture in tile.pictures] == ["cat", "cat"]
    assert [picture.state for picture in tile.pictures] == ["", "failed"]


def test_every_prompt_is_shown_before_one_is_shown_twice(evaluation):
    prompts = [tile.prompt for tile in next(groups(evaluation())).tiles[:3]]
    assert len(set(prompts)) == 3


def test_erasers_of_different_requests_share_only_some_tiles(evaluation):
    made = evaluation(erasers=2)
    other = made.erasers["second"]
    shots = tuple(s for s in other.images if s.probe.metric == "retain")[5:]
    made = replace(made, erasers={**made.erasers, "second": replace(other, images=shots)})
    forget, retain = groups(made)
    assert {len(tile.pictures) for tile in forget.tiles} == {2}
    assert {len(tile.pictures) for tile in retain.tiles} == {3}


def test_an_image_with_two_questions_stands_beside_the_answer_to_the_same_one(evaluation):
    made = evaluation()
    base, after = made.erasers[BASE], made.erasers["eraser"]
    # The unedited model's retain image answers a second question with no.
    twice = [s for s in base.images if s.probe.metric == "retain"]
    others = tuple(replace(s, probe=Probe("retain", "3d", s.probe.job), shows=False, recognised=None) for s in twice)
    lost = failures(replace(made, erasers={BASE: replace(base, images=(*base.images, *others)), "eraser": after}))
    assert next(lost).lost.note == "none of 20 images"


def test_the_worst_failure_comes_first(evaluation):
    first, second, third = failures(evaluation(erasers=3))
    assert first.through.note == "1 of 20 images"
    scores = [score(tile) for tile in second.through.tiles]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 9
    assert second.through.tiles[0].prompt == "a cat in style 2"
    assert second.through.tiles[0].detail == "seed 8 · score 0.68 · forget"
    assert third.through.tiles == []
    assert third.through.note == "none of 20 images"
    lost = [score(tile) for tile in third.lost.tiles]
    assert lost == sorted(lost)
    assert len(lost) == 8


def score(tile) -> float:
    return float(tile.detail.split(" ")[4])


def test_what_has_no_verdict_is_no_failure(evaluation):
    made = evaluation(error="broken", undecided=2)
    found = next(failures(made))
    assert found.lost.tiles == []
    assert (found.through.note, found.lost.note) == ("1 of 20 images", "none of 17 images")
    assert [(shot.error, shot.undecided) for shot in unanswered(made)] == [
        (None, True),
        (None, True),
        ("broken", False),
    ]


def test_further_questions_about_an_image_make_no_failures_and_no_grids(evaluation):
    made = evaluation(error="broken")
    results = {
        name: replace(
            result,
            images=(
                *result.images,
                *(replace(s, probe=replace(s.probe, metric="nudity", further=True)) for s in result.images),
            ),
        )
        for name, result in made.erasers.items()
    }
    asked_more = replace(made, erasers=results)
    assert list(failures(asked_more)) == list(failures(made))
    assert list(groups(asked_more)) == list(groups(made))
    assert unanswered(asked_more) == unanswered(made), "an image once, however much is asked of it"
