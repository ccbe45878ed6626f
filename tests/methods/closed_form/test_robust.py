"""Robust: what it finds is erased, a round never makes a concept easier to bring back, and files replay to the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Concept, Eraser, Model, Request, TextEdit, open_model
from efface.edits.kinds import describe
from efface.methods.closed_form.ridge import PreservedTokens, solve_ridge
from efface.methods.closed_form.robust import gradient as robust_gradient
from efface.methods.closed_form.robust import problem as robust_problem
from efface.methods.closed_form.robust.problem import RobustConfig, RobustProblem, fixed_rows, nearest_in_span
from efface.methods.closed_form.robust.search import derive, nearest_preimages, neighbours
from efface.methods.closed_form.tokens import Pairs, token_pairs
from efface.models import Embedded
from efface.models.text_gram import TextGram, text_gram
from support import random, relative, the_edit

WIDTH = 40
KEEP = ("horse", "blue bird", "car")


def tokens(count: int, seed: int) -> Tensor:
    return 3 * random(WIDTH, seed=99) + random(count, WIDTH, seed=seed)


WEIGHT = random(90, WIDTH, seed=7)
GRAM = TextGram(WEIGHT.T @ WEIGHT)


def robust(model: Model, preserve: tuple[str, ...] = KEEP, **options: Any) -> Eraser:
    return efface.erase(model, "cat", "dog", preserve=preserve, method="robust", **options)


def pairs(count: int) -> Pairs:
    zeros = torch.zeros(count, dtype=torch.long)
    printed = Embedded(tokens(count, 1)[None], torch.zeros(1, dtype=torch.long), ("cat",))
    return Pairs(tokens(count, 1), tokens(count, 2), zeros, zeros, printed)


def attack(edit: TextEdit, aim: Tensor) -> Tensor:
    """What least squares over all embeddings leaves of the keys and values of each aim (n, d)."""
    best = torch.linalg.lstsq(edit.on(WEIGHT), WEIGHT @ aim.T, driver="gelsd").solution
    return (edit.on(WEIGHT) @ best - WEIGHT @ aim.T).norm(dim=0)


def inputs(concepts: int = 1) -> RobustProblem:
    preserved = PreservedTokens(WIDTH)
    preserved.add(tokens(6, 4))
    return RobustProblem.of(
        GRAM, tokens(concepts, 1)[:concepts], tokens(concepts, 2)[:concepts], tokens(5, 3), preserved, 6
    )


def names(of: RobustProblem) -> list[str]:
    return [f"concept {owner}" for owner in range(of.concepts)]


def solved(of: RobustProblem, **options: Any) -> TextEdit:
    return robust_problem.solve_robust(of, RobustConfig(**options), names(of))[0]


def test_derive_is_the_regularised_least_squares_problem() -> None:
    edit = solve_ridge(tokens(2, 1), tokens(2, 2), PreservedTokens(WIDTH), erase_scale=1, preserve_scale=1, lamb=0.1)
    aims, S = tokens(4, 6), GRAM.matrix
    operator = torch.eye(WIDTH, dtype=torch.float64) + edit.matrix
    expected = torch.linalg.solve(operator.T @ S @ operator + 1e-4 * S, operator.T @ S @ aims.T).T
    assert relative(nearest_preimages(edit, GRAM, aims), expected) < 1e-8


def test_what_derive_scores_is_what_an_attack_leaves() -> None:
    of, targets = inputs(), pairs(4)
    edit = solved(of)
    fixed = fixed_rows(of, RobustConfig())
    seen = derive(edit, GRAM, targets, fixed, None, projected=True)
    difference = targets.edited - targets.guides
    left = attack(edit, difference + edit(targets.guides)) / GRAM.norms(difference)
    assert torch.allclose(seen.scores, left, atol=1e-3)  # the ridge
    assert relative(edit(seen.tokens), seen.tokens) < 1e-10  # a point that the edit leaves alone


@pytest.mark.parametrize("concepts", [1, 2])
def test_a_shift_is_erased_exactly_and_nothing_comes_as_near_as_before(concepts: int) -> None:
    of, targets, config = inputs(concepts), pairs(6), RobustConfig()
    aims = targets.edited - targets.guides
    edit = solved(of)
    fixed = fixed_rows(of, config)
    for _ in range(4):
        before, free = attack(edit, aims), attack(edit, of.edited)
        seen = derive(edit, GRAM, targets, fixed, None, projected=True)
        found = seen.picked(0, 1, 1.0)
        assert len(found) == 1
        of = of.with_candidates(found)
        edit = solved(of)
        after = attack(edit, aims)
        assert bool((after >= before - 1e-9).all())
        assert bool((attack(edit, of.edited[:concepts]) >= free[:concepts] - 1e-9).all())
        worst = int((before / GRAM.norms(aims)).argmin())
        assert float(after[worst]) > float(before[worst]) + 1e-3
        assert relative(edit(of.shifts), nearest_in_span(GRAM, of.shifts, fixed)) < 1e-9
        assert relative(edit(of.edited), of.guides) < 1e-9
        assert relative(edit(fixed), fixed) < 1e-9
    assert edit.rank == len(of.edited) + len(of.shifts) == concepts + 4
    operator = torch.eye(WIDTH, dtype=torch.float64) + edit.matrix
    assert relative(operator @ operator, operator) < 1e-9


def test_what_promises_no_gain_is_left() -> None:
    of, targets, config = inputs(), pairs(6), RobustConfig(mu=0.0)
    fixed = fixed_rows(of, config)
    edit = solved(of, mu=0.0)
    seen = derive(edit, GRAM, targets, fixed, None, projected=True)
    while found := seen.picked(0, 1, 1.0):
        of = of.with_candidates(found)
        edit = solved(of, mu=0.0)
        seen = derive(edit, GRAM, targets, fixed, None, projected=True)
        assert float(seen.scores[found[0].row]) > found[0].score + 0.05 - 1e-3  # the ridge
    assert 0 < len(of.shifts) <= len(targets.edited)  # each is then as far as the preserved prompts allow
    assert not bool(seen.open.any())


def test_nearest_kept_is_the_projection_in_the_s_norm() -> None:
    fixed, shifts = tokens(4, 3), random(3, WIDTH, seed=8)
    weights = torch.linalg.lstsq(WEIGHT @ fixed.T, WEIGHT @ shifts.T).solution
    assert relative(nearest_in_span(GRAM, shifts, fixed), (fixed.T @ weights).T) < 1e-9


def test_words_count_for_the_concept_that_they_are_nearest_to() -> None:
    of = inputs(2)
    words = torch.cat([of.edited + 0.05 * random(2, WIDTH, seed=9), of.guides[:1], tokens(3, 11)])
    nothing = TextEdit(torch.zeros(WIDTH, 1, dtype=torch.float64), torch.zeros(WIDTH, 1, dtype=torch.float64))
    closed = torch.zeros(len(words), dtype=torch.bool)
    printed = ["one", "two", "guide", "a", "b", "c"]
    fixed = fixed_rows(of, RobustConfig())
    seen = neighbours(nothing, GRAM, printed, words, of.edited, of.guides, fixed, closed)
    for owner in range(2):
        (found,) = seen.picked(owner, 8, 0.5)
        assert (found.what, found.owner) == (printed[owner], owner)
        expected = GRAM.norms(words[owner : owner + 1] - of.edited[owner]) / GRAM.norms(of.edited - of.guides)[owner]
        assert found.score == pytest.approx(float(expected))
    assert not bool(seen.open[2])  # a guide has no direction outside of the preserved prompts
    closed[0] = True
    assert not neighbours(nothing, GRAM, printed, words, of.edited, of.guides, fixed, closed).picked(0, 8, 0.5)
    edit = solved(of.with_candidates([one for owner in range(2) for one in seen.picked(owner, 8, 0.5)]))
    assert relative(edit(words[:2]), of.guides) < 1e-8


@pytest.mark.parametrize("way", ["certified", "uce"])
def test_on_a_model_each_round_leaves_less_to_find(tiny_model: Model, way: str) -> None:
    eraser = robust(tiny_model, solve=way, threshold=0.9, neighbours=2, rounds=4)
    rounds = eraser.provenance["search"]
    assert rounds[0]["found"] == []
    assert len(rounds) > 1
    for of_round in rounds[1:]:
        assert of_round["found"]
        for one in of_round["found"]:
            assert one["score_before"] < 0.9
            if way == "certified" or one["search"] == "neighbours":  # a ridge is always undone by something new
                assert one["score_after"] > one["score_before"]
            assert one["what"] not in {"horse", "car", "dog", "cat"}
    if way == "certified":
        nearest = [of_round["nearest"]["cat"]["derive"] for of_round in rounds]
        assert nearest == sorted(nearest)
        free = [of_round["free"]["cat"] for of_round in rounds]
        assert all(after >= before - 1e-9 for before, after in pairwise(free))
        assert eraser.certificate is not None
        assert eraser.certificate["cat"]["free"] == pytest.approx(free[-1])
    found = sum(len(of_round["found"]) for of_round in rounds)
    assert eraser.rank <= 1 + found == eraser.provenance["coverage"]["edited_tokens"]


def test_found_words_go_to_the_guide_as_the_concept_does(tiny_model: Model) -> None:
    eraser = robust(tiny_model, preserve=(), threshold=0.95, derive="none", rounds=2)
    words = [one["what"] for of_round in eraser.provenance["search"] for one in of_round["found"]]
    assert words
    assert len(set(words)) == len(words)
    found = tiny_model.embed(words).last_tokens.double()
    assert relative(eraser.inputs["edited"][1:], found) < 1e-5
    edit, dog = the_edit(eraser), eraser.inputs["guides"]
    assert relative(edit(eraser.inputs["edited"]), dog) < 1e-8
    ridge = the_edit(robust(tiny_model, preserve=(), threshold=0.95, derive="none", rounds=2, solve="uce", lamb=1e-6))
    assert relative(ridge(eraser.inputs["edited"][:1]), dog[:1]) < 1e-3


def test_without_rounds_it_is_certified_that_keeps_less_exactly(tiny_model: Model) -> None:
    ours = robust(tiny_model, rounds=0, empty_cut=0.0, mu=0.0, preserve_rank=3)
    theirs = efface.erase(tiny_model, "cat", "dog", preserve=KEEP, method="certified")
    assert relative(the_edit(ours).matrix, the_edit(theirs).matrix) < 1e-6
    roomier, stricter = robust(tiny_model, rounds=0, mu=0.0).certificate, theirs.certificate
    assert roomier is not None
    assert stricter is not None
    assert (roomier["cat"]["free"] or 0) > (stricter["cat"]["free"] or 0)


def test_what_is_kept_is_not_erased_and_is_told_of(tiny_model: Model) -> None:
    near = robust(tiny_model, preserve=(), threshold=0.95, derive="none").provenance["search"][1]["found"][0]["what"]
    with pytest.warns(UserWarning, match=f"'{near}' is preserved, but restores 'cat'"):
        preserved = robust(tiny_model, preserve=(near,), preserve_rank=1, threshold=0.95, derive="none")
    assert near in preserved.provenance["coverage"]["kept_that_bring_back"]["cat"]
    assert near not in [one["what"] for of_round in preserved.provenance["search"] for one in of_round["found"]]


def test_text_is_a_weaker_search_than_free(tiny_model: Model) -> None:
    scores = {
        how: robust(tiny_model, derive=how, neighbours=0, rounds=0).provenance["search"][0]["nearest"]["cat"]["derive"]
        for how in ("free", "text")
    }
    assert scores["free"] < scores["text"] + 1e-3  # the ridge


def test_the_gradient_search_descends_to_what_the_picture_needs(tiny_model: Model) -> None:
    eraser = robust(tiny_model, rounds=0)
    edit = the_edit(eraser)
    (path,) = robust_gradient.denoising_paths(tiny_model, ("cat",), ("dog",), None, 1, 0)
    shift = (eraser.inputs["edited"] - eraser.inputs["guides"])[0]
    nothing = TextEdit(0 * edit.left, 0 * edit.right)
    assert robust_gradient.search_shift(tiny_model, nothing, path, 0 * shift, 0)[1] == pytest.approx(
        1.0
    )  # the guide itself
    started = robust_gradient.search_shift(tiny_model, edit, path, shift, 0)[1]
    found, score = robust_gradient.search_shift(tiny_model, edit, path, shift, 16)
    assert score < started
    assert found.dtype == torch.float64
    assert torch.equal(found, robust_gradient.search_shift(tiny_model, edit, path, shift, 16)[0])


def test_the_gradient_search_takes_part(tiny_model: Model) -> None:
    options: dict[str, Any] = {"gradient": 8, "images": 1, "derive": "none", "neighbours": 0, "threshold": 0.99}
    eraser = robust(tiny_model, rounds=1, **options)
    first, *rest = eraser.provenance["search"]
    assert first["nearest"]["cat"].keys() == {"gradient"}
    assert [one["search"] for of_round in rest for one in of_round["found"]] == ["gradient"] * len(rest)
    assert eraser.hash == robust(tiny_model, rounds=1, **options).hash


@pytest.mark.filterwarnings("ignore:.*is preserved, but restores")
@pytest.mark.parametrize("way", ["certified", "uce"])
def test_a_file_gives_back_some_concepts_with_what_was_found_for_them(
    tiny_model: Model, tmp_path: Path, way: str
) -> None:
    concepts = (Concept(name="cat", guide="dog"), Concept(name="golf ball", guide="apple"), Concept(name="van gogh"))
    options: dict[str, Any] = {"solve": way, "threshold": 0.9, "neighbours": 2, "rounds": 3}
    request = Request(concepts=concepts, preserve=KEEP, method="robust", options=options)
    whole = efface.erase(tiny_model, request)
    whole.save(tmp_path / "three.safetensors")
    loaded = Eraser.load(tmp_path / "three.safetensors")
    assert loaded.only(*request.names).hash == whole.hash
    part = loaded.only("cat", "van gogh")
    assert relative(the_edit(part).matrix, the_edit(whole.only("cat", "van gogh")).matrix) == 0.0
    names = {one["concept"] for of_round in part.provenance["search"] for one in of_round["found"]}
    assert names <= {"cat", "van gogh"}
    assert set(part.certificate or {}) == {"cat", "van gogh"}
    again = loaded.only("golf ball", "cat").only("cat")
    assert relative(the_edit(again).matrix, the_edit(loaded.only("cat")).matrix) < 1e-10
    assert [describe(edit) for edit in part.edits] == [{"edit": "text", "stream": "text"}]


@pytest.mark.filterwarnings("ignore:.*is preserved, but restores")
@pytest.mark.parametrize("way", ["certified", "uce"])
def test_erasers_are_joined_with_what_each_found(tiny_model: Model, way: str) -> None:
    def erase(names: list[str], preserve: list[str]) -> Eraser:
        options: dict[str, Any] = {"solve": way, "threshold": 0.9, "neighbours": 2, "rounds": 2}
        return efface.erase(tiny_model, names, "dog", preserve=preserve, method="robust", **options)

    one, two = erase(["cat"], ["horse"]), erase(["golf ball", "van gogh"], ["blue bird", "horse"])
    both = efface.compose(one, two)
    assert both.concepts == ("cat", "golf ball", "van gogh")
    for name, part in (("cat", one), ("golf ball", two), ("van gogh", two)):
        position, joined = part.concepts.index(name), both.concepts.index(name)
        for rows, owner in (("edited", "owner"), ("guides", "owner"), ("found", "found.owner")):
            mine = part.inputs[rows][part.inputs[owner] == position]
            assert torch.equal(both.inputs[rows][both.inputs[owner] == joined], mine)
    erased = [one["concept"] for of_round in both.provenance["search"] for one in of_round["found"]]
    assert len(erased) == len(both.inputs["edited"]) + len(both.inputs["found"]) - 3
    assert both.inputs["preserve.rows"].shape[0] == both.inputs["preserve.count"] == 2
    if way == "certified":
        assert relative(the_edit(both)(both.inputs["edited"]), both.inputs["guides"]) < 1e-8
    swapped = efface.compose(two, one).only("cat", "golf ball", "van gogh")
    again = both.only("cat")
    assert again.rank <= one.rank
    assert relative(the_edit(swapped).matrix, the_edit(both).matrix) < 1e-8


def test_the_denoiser_is_not_loaded(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("robust reads the text encoder and S only, without the gradient search")

    model = open_model(tiny_sd)
    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    assert robust(model).rank > 0


def test_a_concept_that_no_template_fits_is_erased_all_the_same(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "a cat in a house in the car", "art", method="robust", kind="memorised", rounds=1)
    assert eraser.rank > 0
    with pytest.raises(BadRequest):
        token_pairs(tiny_model, eraser.request, "window", expand=True)


def test_what_the_model_lacks_is_said(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "neighbours=0": ("words", lambda _: (), {}),
        "derive=free": ("text_norm", None, {"derive": "text"}),
        "gradient=0": (
            "scheduler_config",
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            {"gradient": 1},
        ),
    }
    for message, (name, value, options) in lacking.items():
        with monkeypatch.context() as patch:
            patch.setattr(type(tiny_model), name, value)
            with pytest.raises(BadRequest, match=message):
                robust(tiny_model, **options)


def test_the_vocabulary_is_embedded_as_prompts_are(tiny_model: Model) -> None:
    words = tiny_model.words()
    assert {"cat", "parrot", "horse"} <= set(words)
    assert all(word.isascii() for word in words)
    prompts = [*words, "a golf ball", ""]
    assert relative(tiny_model.last_tokens(prompts), tiny_model.embed(prompts).last_tokens) < 1e-5
    short = tiny_model.last_tokens(["a golf ball"], clip_skip=1)
    assert relative(short, tiny_model.embed(["a golf ball"], clip_skip=1).last_tokens) < 1e-5
    assert text_gram(tiny_model).norms(tiny_model.last_tokens(words).double()).min() > 0
