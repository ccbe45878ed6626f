"""The certified eraser: every claim of its docstring, against formulas written out and attacks that try."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, TextEdit
from efface.methods.closed_form.certified_solve import Problem, solve_certified
from efface.models.text_gram import TextGram, text_gram
from support import random, relative, the_edit

WIDTH = 40
KEEP = ["horse", "a car", "parrot", "blue bird"]


def tokens(count: int, seed: int) -> Tensor:
    return 3 * random(WIDTH, seed=99) + random(count, WIDTH, seed=seed)


WEIGHT = random(90, WIDTH, seed=7)
GRAM = TextGram(WEIGHT.T @ WEIGHT)


def problem(erased: int = 1, preserved: int = 8, gram: TextGram = GRAM) -> Problem:
    guides = tokens(erased, 2)
    return Problem(gram, tokens(erased, 1), guides, torch.cat([guides, tokens(3, 3)]), tokens(preserved, 4), preserved)


def solved(of: Problem, **settings: Any) -> TextEdit:
    defaults: dict[str, Any] = {"cut": 1e-3, "concept_rank": None, "preserve_rank": None, "mu": 1.0}
    return solve_certified(of, **{**defaults, **settings})[0]


def attack(edit: TextEdit, token: Tensor) -> float:
    """What the embedding leaves that least squares finds, relative."""
    aim = WEIGHT @ token
    found = torch.linalg.lstsq(edit.on(WEIGHT), aim[:, None], driver="gelsd").solution[:, 0]
    return float((edit.on(WEIGHT) @ found - aim).norm() / aim.norm())


@pytest.mark.parametrize("erased", [1, 3])
def test_guides_are_reached_and_what_is_kept_stays(erased: int) -> None:
    of = problem(erased)
    edit = solved(of)
    assert relative(edit(of.edited), of.guides) < 1e-10
    assert relative(edit(of.fixed), of.fixed) < 1e-10
    assert relative(edit(of.preserved), of.preserved) < 1e-10
    operator = torch.eye(WIDTH, dtype=torch.float64) + edit.matrix
    assert relative(operator @ operator, operator) < 1e-10
    assert edit.rank == erased
    assert torch.linalg.matrix_rank(operator) == WIDTH - erased


@pytest.mark.parametrize("erased", [1, 3])
def test_it_is_the_formula(erased: int) -> None:
    of, S = problem(erased), GRAM.matrix
    C, G, B = of.edited.T, of.guides.T, torch.cat([of.fixed, of.preserved]).T
    outside = C - B @ torch.linalg.inv(B.T @ S @ B) @ B.T @ S @ C
    matrix = -(C - G) @ torch.linalg.inv(outside.T @ S @ outside) @ outside.T @ S
    assert relative(solved(of).matrix, matrix) < 1e-9
    for token, left in zip(of.edited, outside.T, strict=True):
        share = float(GRAM.norms(left[None]) / GRAM.norms(token[None]))
        assert attack(solved(of), token) == pytest.approx(share, abs=1e-8)
        assert share > 0.1


def test_no_operator_that_keeps_the_same_is_harder_to_undo() -> None:
    of = problem(2)
    best = [attack(solved(of), token) for token in of.edited]
    basis = torch.cat([of.fixed, of.preserved, of.edited])
    free = torch.linalg.svd(basis)[2][len(basis) :]  # w may be moved along these, and still w B = 0 and X^T C = I
    for seed in range(5):
        edit = solved(of)
        functional = edit.left @ edit.right.T
        along = (of.edited - of.guides).T @ random(2, len(free), seed=seed) @ free
        moved = functional + 0.3 * along * functional.norm() / along.norm()
        other = TextEdit(moved, torch.eye(WIDTH, dtype=torch.float64))
        assert relative(other(of.edited), of.guides) < 1e-10
        assert all(attack(other, token) <= one + 1e-9 for token, one in zip(of.edited, best, strict=True))
        assert any(attack(other, token) < one - 1e-6 for token, one in zip(of.edited, best, strict=True))


def test_only_leading_directions_are_kept_exactly_where_asked() -> None:
    of = problem(1, 20)
    exact, part, none = (solved(of, preserve_rank=rank, mu=0.0) for rank in (None, 5, 0))
    roomier = [attack(edit, of.edited[0]) for edit in (none, part, exact)]
    assert roomier == sorted(roomier, reverse=True)  # preserved prompts cost robustness

    def moved(edit: TextEdit) -> float:
        return relative(edit(of.preserved), of.preserved)

    assert moved(none) > moved(part) > 1e-6
    for edit in (exact, part, none):
        assert relative(edit(of.edited), of.guides) < 1e-10
        assert relative(edit(of.fixed), of.fixed) < 1e-10


def test_half_of_the_dimensions_is_left_to_erase() -> None:
    printed = solve_certified(problem(1, 100), cut=1e-3, concept_rank=None, preserve_rank=None, mu=1.0)[1]
    assert printed["dimensions_kept_exactly"] == WIDTH // 2
    assert printed["preserve_directions_kept_exactly"] == WIDTH // 2 - 4
    assert printed["preserve_directions_kept_approximately"] == WIDTH // 2


def test_mu_trades_the_certificate_for_what_unlisted_prompts_lose() -> None:
    of = problem(1, 20)

    def numbers(edit: TextEdit) -> tuple[float, float]:
        difference = of.edited - of.guides
        leak = (edit(of.preserved) - of.preserved) @ difference.T / difference.square().sum()
        return attack(edit, of.edited[0]), float(leak.square().mean())

    weights = (0.0, 1.0, 10.0, 1e9)
    found = [numbers(solved(of, preserve_rank=0, mu=mu)) for mu in weights]
    assert [rho for rho, _ in found] == sorted([rho for rho, _ in found], reverse=True)
    assert [leak for _, leak in found] == sorted([leak for _, leak in found], reverse=True)
    for mu, _ in zip(weights, found, strict=True):  # each is the best for its own weight
        values = [rho**-2 + mu * leak for rho, leak in found]
        assert min(values) == pytest.approx(values[weights.index(mu)], rel=1e-9)
    limit = solved(of, preserve_rank=20, mu=0.0)
    assert relative(solved(of, preserve_rank=0, mu=1e9).matrix, limit.matrix) < 1e-3


def test_a_direction_that_is_all_but_kept_is_left_alone() -> None:
    of = problem(2)
    near = of.edited.clone()
    near[1] = near[0] + 1e-6 * random(WIDTH, seed=6)
    edit, printed = solve_certified(
        Problem(GRAM, near, of.guides[[0, 0]], of.fixed, of.preserved, 8),
        cut=1e-3,
        concept_rank=None,
        preserve_rank=None,
        mu=1.0,
    )
    assert printed["concept_directions_left_alone"] == 1
    assert edit.rank == 1
    assert relative(edit(near), of.guides[[0, 0]]) < 1e-5
    assert relative(edit(of.preserved), of.preserved) < 1e-10
    assert float(edit.matrix.norm()) < 100


def test_layers_that_read_little_still_certify() -> None:
    weight = random(25, WIDTH, seed=7)
    gram = TextGram(weight.T @ weight)
    of = problem(1, 5, gram)
    edit = solved(of)
    assert relative(edit(of.edited), of.guides) < 1e-9
    assert relative(edit(of.preserved), of.preserved) < 1e-9


def test_on_a_model_it_says_what_it_promises(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", preserve=KEEP[:3], method="certified")
    edit, weight = the_edit(eraser), torch.cat([weight.double() for _, weight in tiny_model.text_weights()])
    cat, dog, stored = (tiny_model.embed(prompts).last_tokens.double() for prompts in (["cat"], ["dog"], KEEP[:3]))
    empty = tiny_model.embed([""]).tokens[0].double()
    assert relative(edit(cat), dog) < 1e-10
    for tokens_kept in (dog, stored, empty):
        assert relative(edit(tokens_kept), tokens_kept) < 1e-10
    assert eraser.certificate is not None
    found = eraser.certificate["cat"]
    aim = weight @ cat[0]
    best = torch.linalg.lstsq(edit.on(weight), aim[:, None], driver="gelsd").solution[:, 0]
    assert found["free"] == pytest.approx(float((edit.on(weight) @ best - aim).norm() / aim.norm()), abs=1e-8)
    free, text, ceiling = (found[name] or 0.0 for name in ("free", "text", "ceiling"))
    assert 0 < free <= text <= ceiling
    assert eraser.provenance["coverage"]["guide_error"] < 1e-10
    uce = efface.erase(tiny_model, "cat", "dog", preserve=KEEP[:3], certify=True).certificate
    assert uce is not None
    assert uce["cat"]["free"] == 0


@pytest.mark.parametrize(
    ("guides", "options"),
    [
        (["dog", "apple", "art"], {"preserve_rank": 2}),
        (["dog"] * 3, {"tokens": "window", "concept_rank": 6, "mu": 0.0}),
        (["dog"] * 3, {"expand_prompts": True, "preserve_rank": 1, "mu": 5.0}),
        (["dog", "apple", "art"], {"preserve_tokens": "all", "preserve_rank": 4}),
    ],
)
def test_some_concepts_alone_are_as_if_the_others_had_never_been_erased(
    tiny_model: Model, guides: list[str], options: dict[str, Any]
) -> None:
    pairs = dict(zip(["cat", "golf ball", "van gogh"], guides, strict=True))

    def erase(names: Sequence[str]) -> Eraser:
        to = [pairs[name] for name in names]
        return efface.erase(tiny_model, names, to, preserve=KEEP, method="certified", **options)

    every = erase(list(pairs))
    for names in (["cat", "van gogh"], ["golf ball"]):
        assert relative(the_edit(every.only(*names)).matrix, the_edit(erase(names)).matrix) < 1e-10
    assert set(every.without("cat").certificate or {}) == {"golf ball", "van gogh"}


def test_what_is_kept_only_approximately_is_measured_and_told(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", preserve=KEEP, method="certified", preserve_rank=2, mu=0.0)
    printed = eraser.provenance["coverage"]
    assert printed["preserve_directions_kept_exactly"] == 2
    assert printed["preserve_directions_kept_approximately"] == 2
    gram, stored = text_gram(tiny_model), tiny_model.embed(KEEP).last_tokens.double()
    change = gram.norms(the_edit(eraser)(stored) - stored) / gram.norms(stored)
    assert printed["mean_change"] == pytest.approx(float(change.mean()))
    assert max(printed["worst_changes"].values()) == pytest.approx(float(change.max()))
    assert printed["preserved_approximately"] == int((change > 1e-8).sum())
    two = efface.erase(tiny_model, ["cat", "boat"], "dog", preserve=KEEP, method="certified", preserve_rank=2, mu=0.0)
    assert "worst_changes" in two.provenance["coverage"]
    assert "worst_changes" not in two.only("cat").provenance["coverage"]


def test_more_preserved_prompts_than_dimensions_take_bounded_memory(tiny_model: Model) -> None:
    preserve = [f"{one}{two} car" for one in "abcdefgh" for two in "abcdefgh"]
    eraser = efface.erase(tiny_model, "cat", "dog", preserve=preserve, method="certified")
    assert eraser.inputs["preserve.gram"].shape == (tiny_model.width, tiny_model.width)
    assert len(eraser.provenance["coverage"]["worst_changes"]) == 10
    assert eraser.provenance["coverage"]["guide_error"] < 1e-10


def test_a_guide_that_is_itself_erased_leaves_nothing(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="nothing of 'dog'"):
        efface.erase(tiny_model, ["cat", "dog"], ["dog", "horse"], method="certified")
