"""OCE against its equations on whole matrices, and what an orthogonal map promises."""

from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, WeightEdit
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.closed_form.oce import PUBLISHED, turn

CONCEPTS, GUIDES, PRESERVE = ["cat", "golf ball"], ["dog", "cake"], ["a horse", "blue bird"]


def literal(
    model: Model, W: Tensor, concepts: list[str], guides: list[str], a: float, b: float, bg: float, lamb: float
) -> Tensor:
    """Q of one weight that has no more rows than columns."""

    def basis(prompts: list[str]) -> Tensor:
        columns = [W @ token / (W @ token).norm() for token in model.embed(prompts).last_tokens.double()]
        return torch.linalg.qr(torch.stack(columns, dim=1)).Q

    E, Eg, one = basis(concepts), basis(guides), torch.eye(len(W), dtype=torch.float64)
    matrix = -a * E @ E.T @ (one - Eg @ Eg.T)
    for p in model.embed(PRESERVE).last_tokens.double():
        matrix += b * torch.outer(W @ p, W @ p)
    second, count = torch.zeros(W.shape[1], W.shape[1], dtype=torch.float64), 0
    for prompt in [*PRESERVE, *EVERYDAY]:
        embedded = model.embed([prompt], truncate=True)
        for token in embedded.tokens[0, : int(embedded.last[0]) + 2].double():
            second += torch.outer(token, token)
            count += 1
    matrix += bg * W @ (second / count) @ W.T + lamb * W @ W.T
    U, _, Vh = torch.linalg.svd(matrix)
    return U @ Vh


def deltas(eraser: Eraser) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        assert edit.delta is not None
        made[edit.parameter.removeprefix("denoiser.")] = edit.delta
    return made


def values(model: Model) -> dict[str, Tensor]:
    return {name: weight.detach().double() for name, weight in model.text_weights() if name.endswith("to_v.weight")}


def oce(model: Model, concepts: list[str] = CONCEPTS, guides: list[str] = GUIDES, **options: Any) -> Eraser:
    options = {"expand_prompts": False, **options}
    return efface.erase(model, concepts, guides, preserve=PRESERVE, method="oce", **options)


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({}, (2000.0, 0.0, 10.0, 10.0)),
        (
            {"erase_scale": 1.0, "preserve_concept_scale": 0.3, "preserve_global_scale": 0.5, "lamb": 1.5},
            (1.0, 0.3, 0.5, 1.5),
        ),
    ],
)
def test_it_is_the_papers_equations(
    tiny_model: Model, options: dict[str, Any], scales: tuple[float, float, float, float]
) -> None:
    found, weights = deltas(oce(tiny_model, **options)), values(tiny_model)
    assert found.keys() == weights.keys()  # values only, as published
    for name, weight in weights.items():
        assert weight.shape[0] <= weight.shape[1]
        Q = literal(tiny_model, weight, CONCEPTS, GUIDES, *scales)
        expected = Q @ weight - weight
        assert float((found[name] - expected).norm() / expected.norm()) < 1e-9


def test_norms_and_angles_of_all_values_stay(tiny_model: Model) -> None:
    for name, delta in deltas(oce(tiny_model)).items():
        weight = values(tiny_model)[name]
        before, after = weight.T @ weight, (weight + delta).T @ (weight + delta)
        assert float((after - before).norm() / before.norm()) < 1e-12
        assert float(delta.norm()) > 0.1 * float(weight.norm())


def wide_and_tall() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((12, 20), (20, 20), (50, 20))]


@pytest.mark.parametrize("weight", wide_and_tall(), ids=["wide", "square", "tall"])
def test_it_is_the_nearest_orthogonal_map_within_the_range_of_the_weight(weight: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    edited, guides = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    text = 2 * torch.eye(20, dtype=torch.float64)
    turned = weight + turn(weight, edited, guides, text, {"erase_scale": 500.0})
    torch.testing.assert_close(turned.T @ turned, weight.T @ weight, rtol=0, atol=1e-10)
    inside = weight @ torch.linalg.pinv(weight)
    torch.testing.assert_close(inside @ turned, turned, rtol=0, atol=1e-10)
    # Q^T M is symmetric and positive on the range exactly where Q is the polar factor of M.
    E, Eg = (torch.linalg.qr(weight @ tokens.T).Q for tokens in (edited, guides))
    M = weight @ text @ weight.T - 500 * E @ E.T @ (torch.eye(len(weight), dtype=torch.float64) - Eg @ Eg.T)
    Q = turned @ torch.linalg.pinv(weight)
    product = Q.T @ M
    assert float((product - product.T).norm() / product.norm()) < 1e-9
    assert float(torch.linalg.eigvalsh((product + product.T) / 2).min()) > -1e-9 * float(product.norm())


def test_one_concept_reflects_only_its_own_direction(tiny_model: Model) -> None:
    """det Q = -1 is right: turning the last coordinate axis around, as the script does, would move everything else."""
    weight = values(tiny_model)[next(iter(values(tiny_model)))]
    generator = torch.Generator().manual_seed(2)
    concept, guide = torch.randn(2, 1, weight.shape[1], generator=generator, dtype=torch.float64)
    guide = guide - (guide @ weight.T @ weight @ concept.T) / (weight @ concept.T).norm() ** 2 * concept
    text = 1e-6 * torch.eye(weight.shape[1], dtype=torch.float64)
    delta = turn(weight, concept, guide, text, {"erase_scale": 1e3})
    Q = torch.eye(len(weight), dtype=torch.float64) + delta @ torch.linalg.pinv(weight)
    value = weight @ concept[0]
    assert float(torch.linalg.det(Q)) == pytest.approx(-1)
    torch.testing.assert_close(Q @ value, -value, rtol=1e-5, atol=1e-5)
    others = torch.eye(len(weight), dtype=torch.float64) - torch.outer(value, value) / value.norm() ** 2
    assert float((Q @ others - others).norm()) < 1e-3
    flawed = Q.clone()
    flawed[:, -1] *= -1
    assert float((flawed @ others - others).norm()) > 1


@pytest.mark.parametrize("kind", ["object", "style", "unsafe"])
def test_the_published_scales_follow_the_kind(tiny_model: Model, kind: Any) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", kind=kind, method="oce")
    settings = eraser.provenance["settings"]
    assert {name: settings[name] for name in PUBLISHED[kind]} == PUBLISHED[kind]


def test_concepts_are_turned_together_and_cannot_be_told_apart(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="cannot be split"):
        oce(tiny_model).without("cat")
