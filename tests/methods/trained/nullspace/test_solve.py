"""The closed form against AlphaEdit's, written out with whole matrices and every copy."""

import pytest
import torch
from torch import Tensor

from efface import WeightEdit
from efface.methods.trained.nullspace.method import free_directions, null_space_change, weight_edit
from support import random

H, D, TOKENS, COPIES, LAMB = 24, 10, 5, 3, 7.0


def protected() -> Tensor:
    """K0, (h, n): 15 directions in use, and three more that are hardly."""
    strengths = torch.cat([torch.ones(15), 1e-4 * torch.ones(3)]).double()
    return random(H, 18, seed=1) * strengths


def projector(K0: Tensor, threshold: float, at_least: int) -> Tensor:
    U, S, _ = torch.linalg.svd(K0 @ K0.T)
    free = threshold * S.mean() > S
    free[-at_least:] = True
    return U[:, free] @ U[:, free].T


def published(K1: Tensor, R: Tensor, P: Tensor, Kp: Tensor) -> Tensor:
    """R K1^T P (K1 K1^T P + Kp Kp^T P + lamb I)^-1, tokens as columns."""
    return R @ K1.T @ P @ torch.linalg.inv(K1 @ K1.T @ P + Kp @ Kp.T @ P + LAMB * torch.eye(H, dtype=torch.float64))


@pytest.fixture
def basis() -> Tensor:
    K0 = protected()
    return free_directions(K0 @ K0.T, 1e-6, 4)


def test_the_projector_is_of_the_small_singular_values() -> None:
    K0 = protected()
    for threshold, at_least, rank in [(1e-12, 1, 6), (1e-6, 4, 9), (0.0, 9, 9), (1e-6, 12, 12)]:
        found = free_directions(K0 @ K0.T, threshold, at_least)
        assert found.shape == (H, rank)
        torch.testing.assert_close(found.T @ found, torch.eye(rank, dtype=torch.float64))
        torch.testing.assert_close(found @ found.T, projector(K0, threshold, at_least), rtol=0, atol=1e-6)


@pytest.mark.parametrize("before", [0, 4])
def test_it_is_alphaedits_closed_form_for_every_copy(basis: Tensor, before: int) -> None:
    keys, earlier = random(TOKENS, H, seed=2), random(before, H, seed=3)
    residuals = random(COPIES, TOKENS, D, seed=4)
    up, down = null_space_change(keys, residuals.mean(0), basis, LAMB / COPIES, earlier)
    K1, R, Kp = keys.repeat(COPIES, 1).T, residuals.flatten(0, 1).T, earlier.repeat(COPIES, 1).T
    P = basis @ basis.T
    expected = published(K1, R, P, Kp)
    torch.testing.assert_close(up @ down, expected, rtol=0, atol=1e-12)
    sides = up @ down @ (K1 @ K1.T @ P + Kp @ Kp.T @ P + LAMB * torch.eye(H, dtype=torch.float64))
    torch.testing.assert_close(sides, R @ K1.T @ P, rtol=0, atol=1e-11)
    assert torch.linalg.matrix_rank(up @ down) == up.shape[1] == TOKENS


def test_it_stays_within_the_free_directions(basis: Tensor) -> None:
    up, down = null_space_change(random(TOKENS, H, seed=2), random(TOKENS, D, seed=4), basis, LAMB, random(0, H))
    delta, K0 = up @ down, protected()
    torch.testing.assert_close(delta @ basis @ basis.T, delta, rtol=0, atol=1e-13)
    assert float((delta @ K0[:, :15]).norm()) < 1e-4 * float(delta.norm() * K0.norm())
    exact = free_directions(K0 @ K0.T, 1e-12, 1)
    up, down = null_space_change(random(TOKENS, H, seed=2), random(TOKENS, D, seed=4), exact, LAMB, random(0, H))
    assert float((up @ down @ K0).norm()) < 1e-10


def test_less_ridge_comes_nearer_to_the_targets_and_earlier_keys_are_moved_less(basis: Tensor) -> None:
    keys, residuals, earlier = random(TOKENS, H, seed=2), random(TOKENS, D, seed=4), random(2, H, seed=3)

    def misses(lamb: float) -> float:
        up, down = null_space_change(keys, residuals, basis, lamb, random(0, H))
        return float((up @ down @ keys.T - residuals.T).norm())

    assert misses(1e-9) < 1e-6 < misses(1.0) < misses(100.0) < float(residuals.norm())
    moved = [
        float((up @ down @ earlier.T).norm())
        for up, down in (
            null_space_change(keys, residuals, basis, 1.0, preserved) for preserved in (random(0, H), 1e3 * earlier)
        )
    ]
    assert moved[1] < 1e-4 * moved[0]


def test_it_is_stored_as_factors_while_they_are_smaller() -> None:
    low = random(40, 3, seed=5) @ random(3, 60, seed=6)
    for delta, rank in ((low, 3), (random(40, 60, seed=7), 40)):
        edit = weight_edit("text_encoder.w", delta)
        assert isinstance(edit, WeightEdit)
        assert (edit.delta is None) == (rank == 3)
        assert edit.rank == rank
        value = edit.value(delta.shape)
        assert value.dtype == torch.float32
        assert float((value - delta).norm() / delta.norm()) < 1e-6
