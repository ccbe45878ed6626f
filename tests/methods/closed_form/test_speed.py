"""SPEED against the published script's lines, and what a null space and exact invariants promise."""

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, TextEdit
from efface.methods.closed_form.speed_tokens import centres
from support import low_rank_changes

CONCEPTS, GUIDES = ["cat", "golf ball"], ["dog", ""]
RETAIN = ["a horse", "blue bird", "cake", "star", "red car", "house", "apple", "flat line", "boat", "parrot"]
SHARP = 1e-6  # a threshold under every eigenvalue of what these few tokens span


def last(model: Model, prompts: list[str]) -> Tensor:
    return model.embed(prompts).last_tokens.double()


def invariants(model: Model) -> Tensor:
    empty = model.embed([""]).tokens[0].double()
    return torch.cat([empty[:1], centres(empty[1:])])


def script(
    name: str, W: Tensor, C: Tensor, A: Tensor, rows: Tensor, K2: Tensor, *, threshold: float, rho: float, lamb: float,
    aug: int, refine: bool,
) -> Tensor:  # fmt: skip
    """The change of one weight, with the matrices of train_erase_null.py; one batch of retained tokens."""
    one, k = torch.eye(W.shape[1], dtype=torch.float64), len(C)
    S_tt, S_at = C.T @ C / k, A.T @ C / k
    dW0 = W @ (S_at - S_tt) @ torch.linalg.inv(one + S_tt)
    if aug and refine:
        norm = (rows @ dW0.T).norm(dim=1)
        rows = rows[norm > norm.mean()]
    if aug:
        v = torch.linalg.svd(W, full_matrices=False).Vh[-1]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        copies = [
            rows + torch.outer(torch.randn(len(rows), generator=generator, dtype=torch.float64), v) for _ in range(aug)
        ]
        many = torch.cat(copies)
        norm = (many @ dW0.T).norm(dim=1)
        rows = torch.cat([rows, many[norm > norm.mean()]])
    U, S, _ = torch.linalg.svd(rows.T @ rows / len(rows))
    null = threshold > S
    P = U[:, null] @ U[:, null].T
    M = torch.linalg.inv(S_tt @ P + rho * one)
    K = K2.T
    inner = torch.linalg.inv(K.T @ P @ M @ K + lamb * torch.eye(K.shape[1], dtype=torch.float64))
    return W @ (S_at - S_tt) @ P @ (one - M @ K @ inner @ K.T @ P) @ M


def values(model: Model, letters: str = "v") -> dict[str, Tensor]:
    ends = tuple(f"to_{letter}.weight" for letter in letters)
    return {name: weight.detach().double() for name, weight in model.text_weights() if name.endswith(ends)}


def speed(model: Model, **options: Any) -> Eraser:
    return efface.erase(model, CONCEPTS, GUIDES, preserve=RETAIN, method="speed", **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"disable_filter": False}, {"threshold": 0.1, "rho": 1.0, "lamb": 0.0, "aug": 10, "refine": True}),
        (
            {"disable_filter": True, "retain_scale": 0.05, "aug_num": 3, "threshold": 0.3, "lamb": 0.2},
            {"threshold": 0.3, "rho": 0.05, "lamb": 0.2, "aug": 3, "refine": False},
        ),
        (
            {"disable_filter": False, "aug_num": 0, "lamb": 0.1},
            {"threshold": 0.1, "rho": 1.0, "lamb": 0.1, "aug": 0, "refine": False},
        ),
    ],
)
def test_it_is_the_published_script(tiny_model: Model, options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = low_rank_changes(speed(tiny_model, **options))
    weights = values(tiny_model)
    assert found.keys() == weights.keys()  # values only, as published
    C, A = last(tiny_model, CONCEPTS), last(tiny_model, GUIDES)
    for name, weight in weights.items():
        change = script(name, weight, C, A, last(tiny_model, RETAIN), invariants(tiny_model), **expected)
        assert float((found[name] - change).norm() / change.norm()) < 1e-9


def test_retained_and_invariant_tokens_read_as_before_and_the_rank_is_the_number_of_concepts(tiny_model: Model) -> None:
    eraser = speed(tiny_model, threshold=SHARP, disable_filter=True)
    retained, fixed, edited = last(tiny_model, RETAIN), invariants(tiny_model), last(tiny_model, CONCEPTS)
    for change in low_rank_changes(eraser).values():
        moved = float((edited @ change.T).norm())
        assert moved > 0.01
        assert float((retained @ change.T).norm()) < 1e-10 * moved * len(RETAIN)
        assert float((fixed @ change.T).norm()) < 1e-10 * moved
        assert torch.linalg.matrix_rank(change) == len(CONCEPTS)
    assert eraser.rank == len(CONCEPTS)


def test_filtering_retains_only_what_the_edit_would_touch(tiny_model: Model) -> None:
    """With fewer retained directions the null space is larger, and the concept can be moved further."""
    edited = last(tiny_model, CONCEPTS)

    def moved(**options: Any) -> float:
        made = low_rank_changes(speed(tiny_model, threshold=SHARP, retain_scale=1e-6, lamb=1e3, **options))
        return sum(float((edited @ change.T).norm()) for change in made.values())

    assert moved(disable_filter=False) > moved(disable_filter=True)


def test_without_filter_and_copies_it_is_one_text_edit_and_can_be_split(tiny_model: Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {"params": "KV", "aug_num": 0, "disable_filter": False}
    whole = speed(tiny_model, **options)
    (edit,) = whole.edits
    assert isinstance(edit, TextEdit)
    C, A = last(tiny_model, CONCEPTS), last(tiny_model, GUIDES)
    for name, weight in values(tiny_model, "kv").items():
        change = script(
            name, weight, C, A, last(tiny_model, RETAIN), invariants(tiny_model),
            threshold=0.1, rho=1.0, lamb=0.0, aug=0, refine=False,
        )  # fmt: skip
        assert float((edit.on(weight) - weight - change).norm() / change.norm()) < 1e-9
    direct = efface.erase(tiny_model, "golf ball", "", preserve=RETAIN, method="speed", **options)
    (expected,) = direct.edits
    assert isinstance(expected, TextEdit)
    whole.save(tmp_path / "eraser.safetensors")
    (rest,) = Eraser.load(tmp_path / "eraser.safetensors").without("cat").edits
    assert isinstance(rest, TextEdit)
    torch.testing.assert_close(rest.matrix, expected.matrix, rtol=0, atol=1e-10)


def test_with_the_weights_part_it_says_that_it_cannot_be_split(tiny_model: Model) -> None:
    eraser = speed(tiny_model)
    with pytest.raises(BadRequest, match="params=KV with aug_num=0"):
        eraser.without("cat")
    assert eraser.only(*CONCEPTS).hash == eraser.hash


def test_kind_unsafe_edits_all_tokens_with_its_published_settings(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", kind="unsafe", method="speed")
    settings = eraser.provenance["settings"]
    assert (settings["retain_scale"], settings["lamb"]) == (0.7, 0.5)
    assert eraser.rank == tiny_model.max_tokens - 1
    assert all(bool(change.isfinite().all()) for change in low_rank_changes(eraser).values())


def test_a_retained_prompt_that_names_a_concept_is_not_retained(tiny_model: Model) -> None:
    named = efface.erase(tiny_model, "cat", "dog", preserve=[*RETAIN, "a red Cat"], method="speed")
    assert named.hash == efface.erase(tiny_model, "cat", "dog", preserve=RETAIN, method="speed").hash


def test_the_weights_are_read_in_any_order_with_the_same_result(tiny_model: Model) -> None:
    streamed = low_rank_changes(speed(tiny_model))
    _ = tiny_model.denoiser  # loaded: other order of names
    loaded = low_rank_changes(speed(tiny_model))
    assert all(torch.equal(change, loaded[name]) for name, change in streamed.items())
