import json

import pytest
import torch

from efface.edits.kinds import GuardEdit, TextEdit, WeightEdit, describe, edit_from
from efface.errors import BadFile


def text_edit(dim: int = 12, rank: int = 3) -> TextEdit:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, dim, rank, generator=generator, dtype=torch.float64)
    return TextEdit(left, right)


def test_an_edited_weight_reads_text_as_the_weight_reads_edited_text() -> None:
    for edit in (text_edit(rank=3), text_edit(rank=9)):  # both orders of the product
        weight, text = torch.randn(5, 12).double(), torch.randn(2, 7, 12).double()
        torch.testing.assert_close(text @ edit.on(weight).T, edit(text) @ weight.T, rtol=1e-12, atol=1e-12)
        identity = torch.eye(12, dtype=torch.float64)
        torch.testing.assert_close(edit.on(identity), identity + edit.matrix)


def test_types_stay_and_half_precision_is_summed_in_float32() -> None:
    edit = text_edit()
    text = torch.randn(4, 12, dtype=torch.bfloat16)
    expected = (text.double() + text.double() @ edit.matrix.T).bfloat16()
    assert edit(text).dtype is torch.bfloat16
    assert (edit(text).double() - expected.double()).abs().max() <= 2**-8 * expected.double().abs().max()


def test_strength_scales_the_change() -> None:
    edit, text = text_edit(), torch.randn(4, 12).double()
    torch.testing.assert_close(edit.scaled(0.25)(text) - text, 0.25 * (edit(text) - text))
    assert torch.equal(edit.scaled(0.0)(text), text)


def test_a_weight_edit_adds_its_delta_however_it_is_stored() -> None:
    up, down, weight = torch.randn(6, 2), torch.randn(2, 9), torch.randn(6, 1, 3, 3)
    low_rank = WeightEdit("denoiser.conv.weight", up=up, down=down)
    dense = WeightEdit("denoiser.conv.weight", delta=(up @ down).reshape(weight.shape))
    assert torch.equal(low_rank.on(weight), dense.on(weight))
    assert (low_rank.rank, dense.rank) == (2, 6)
    assert torch.equal(low_rank.on(weight, 0.0), weight)


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadFile):
        TextEdit(torch.zeros(4, 2), torch.zeros(4, 3))
    for fields in ({}, {"up": torch.zeros(2, 1)}, {"up": torch.zeros(2, 1), "delta": torch.zeros(2, 2)}):
        with pytest.raises(BadFile):
            WeightEdit("denoiser.w", **fields)


def test_a_description_and_tensors_make_the_edit_again() -> None:
    for edit in (text_edit(), WeightEdit("denoiser.w", delta=torch.randn(3, 3))):
        again = edit_from(describe(edit), edit.tensors())
        assert describe(again) == describe(edit)
        assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in edit.tensors().items())
    with pytest.raises(BadFile, match="unknown kind"):
        edit_from({"edit": "magic"}, {})
    with pytest.raises(BadFile, match="incomplete"):
        edit_from({"edit": "text", "stream": "text"}, {})


def test_a_guard_is_described_by_name_tensors_and_settings() -> None:
    guard = GuardEdit("negative", {"concept": torch.ones(2, 3)}, {"much": 0.5, "often": True})
    again = edit_from(json.loads(json.dumps(describe(guard))), guard.tensors())
    assert isinstance(again, GuardEdit)
    assert (again.guard, again.settings) == (guard.guard, guard.settings)
    assert torch.equal(again.values["concept"], guard.values["concept"])
    assert (guard.rank, guard.nbytes) == (0, 24)
    with pytest.raises(BadFile, match="incomplete"):
        edit_from({"edit": "guard"}, {})
