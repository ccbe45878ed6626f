"""The solve against a literal least-squares problem, and what the equations promise."""

import pytest
import torch
from torch import Tensor

from efface.errors import BadInput
from efface.methods.closed_form.ridge import PreservedTokens, solve_ridge
from support import relative

WIDTH = 24
CASES = [(1, 0), (3, 0), (3, 5), (3, 40), (20, 10), (30, 0), (30, 40)]


def tokens(count: int, seed: int, width: int = WIDTH) -> Tensor:
    """Embeddings with a strong common direction, as a text encoder's have."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(width, generator=generator, dtype=torch.float64)
    return 4 * common + torch.randn(count, width, generator=generator, dtype=torch.float64)


def retained(rows: Tensor) -> PreservedTokens:
    memory = PreservedTokens(rows.shape[1])
    for piece in rows.split(7):
        memory.add(piece)
    return memory


def least_squares(
    weight: Tensor, edited: Tensor, guides: Tensor, preserved: Tensor, a: float, b: float, lamb: float
) -> Tensor:
    """The minimiser of the objective, from its residuals stacked as one over-determined system."""
    left = torch.cat([a**0.5 * edited, b**0.5 * preserved, lamb**0.5 * torch.eye(len(edited.T), dtype=weight.dtype)])
    right = torch.cat([a**0.5 * guides @ weight.T, b**0.5 * preserved @ weight.T, lamb**0.5 * weight.T])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution.T


@pytest.mark.parametrize(("n", "p"), CASES)
def test_it_is_the_least_squares_solution(n: int, p: int) -> None:
    weight = torch.randn(10, WIDTH, dtype=torch.float64)
    edited, guides, preserved = tokens(n, 1), tokens(n, 2), tokens(p, 3)
    edit = solve_ridge(edited, guides, retained(preserved), erase_scale=0.7, preserve_scale=0.3, lamb=0.5)
    expected = least_squares(weight, edited, guides, preserved, 0.7, 0.3, 0.5)
    assert relative(edit.on(weight), expected) < 1e-10
    assert relative(edit.on(weight) - weight, expected - weight) < 1e-10


@pytest.mark.parametrize(("n", "p"), CASES)
def test_the_rank_is_at_most_the_number_of_edited_tokens(n: int, p: int) -> None:
    edit = solve_ridge(tokens(n, 1), tokens(n, 2), retained(tokens(p, 3)), erase_scale=1, preserve_scale=1, lamb=0.5)
    assert edit.rank == min(n, WIDTH)
    assert torch.linalg.matrix_rank(edit.matrix) <= n


def test_rows_and_their_gram_matrix_are_the_same_memory() -> None:
    rows = tokens(20, 3)
    as_rows, as_gram = retained(rows), PreservedTokens(WIDTH)
    as_gram.gram = rows.T @ rows
    assert as_rows.gram is None
    assert retained(tokens(40, 3)).gram is not None
    arguments = {"erase_scale": 1.0, "preserve_scale": 0.5, "lamb": 0.1}
    edits = [solve_ridge(tokens(2, 1), tokens(2, 2), memory, **arguments) for memory in (as_rows, as_gram)]
    assert relative(edits[0].matrix, edits[1].matrix) < 1e-10
    stored = PreservedTokens.from_tensors(as_rows.tensors(), WIDTH)
    assert torch.equal(stored.rows, rows)


def test_preserving_holds_tokens_and_lamb_holds_everything() -> None:
    edited, guides, preserved = tokens(2, 1), tokens(2, 2), tokens(6, 3)

    def change(scale: float, lamb: float, of: Tensor) -> float:
        edit = solve_ridge(edited, guides, retained(preserved), erase_scale=1, preserve_scale=scale, lamb=lamb)
        return float((edit(of) - of).norm())

    drifts = [change(scale, 0.5, preserved) for scale in (0.0, 0.1, 1.0, 100.0)]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 1e-2 * drifts[0]
    moves = [change(1.0, lamb, edited) for lamb in (1e-6, 0.5, 50.0, 5e6)]
    assert moves == sorted(moves, reverse=True)
    assert moves[-1] < 1e-3 * moves[0]


def test_without_ridge_the_concept_reaches_its_guide_exactly() -> None:
    edited, guides, preserved = tokens(3, 1), tokens(3, 2), tokens(5, 3)
    edit = solve_ridge(edited, guides, retained(preserved), erase_scale=1, preserve_scale=1, lamb=0.0)
    assert relative(edit(edited), guides) < 1e-10
    assert relative(edit(preserved), preserved) < 1e-10


def test_a_singular_system_without_ridge_has_the_least_change() -> None:
    edited = torch.cat([tokens(2, 1)] * 2)  # every token twice
    guides = torch.cat([tokens(2, 2)] * 2)
    weight = torch.randn(10, WIDTH, dtype=torch.float64)
    edit = solve_ridge(edited, guides, PreservedTokens(WIDTH), erase_scale=1, preserve_scale=1, lamb=0.0)
    smallest = (torch.linalg.pinv(edited) @ (guides - edited) @ weight.T).T
    assert relative(edit.on(weight) - weight, smallest) < 1e-8


def test_right_factors_are_orthonormal_so_that_half_precision_loses_little() -> None:
    edit = solve_ridge(tokens(8, 1), tokens(8, 2), retained(tokens(30, 3)), erase_scale=1, preserve_scale=1, lamb=0.5)
    torch.testing.assert_close(edit.right.T @ edit.right, torch.eye(8, dtype=torch.float64))
    half = (edit.left.half() @ edit.right.half().T).double()
    assert relative(half, edit.matrix) < 5e-3


def test_broken_embeddings_give_an_error_and_no_artefact() -> None:
    broken = tokens(2, 1)
    broken[0, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        solve_ridge(broken, tokens(2, 2), PreservedTokens(WIDTH), erase_scale=1, preserve_scale=1, lamb=0.5)
