"""Composing erasers: what is solved again together, what is summed, what comes one after the other, what is refused."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, TextEdit, WeightEdit, WrongBase, open_model
from support import parameters, same

PROMPTS = ("a cat", "golf ball", "a house")


def matrix(eraser: Eraser) -> Tensor:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit.matrix


def near(one: Eraser, other: Eraser) -> bool:
    return bool((matrix(one) - matrix(other)).norm() <= 1e-10 * matrix(other).norm())


def same_edits(one: Eraser, other: Eraser) -> bool:
    """Bit for bit."""
    return one.hash == other.hash


def test_one_eraser_is_itself_and_none_is_refused(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog")
    assert efface.compose(eraser) is eraser
    with pytest.raises(BadRequest, match="at least one"):
        efface.compose()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("uce", {}),
        ("uce", {"variant": "window"}),
        ("cure", {}),
        ("cure", {"tokens": "window"}),
        ("certified", {}),
        ("rece", {}),
        ("speed", {"params": "KV", "aug_num": 0}),
    ],
)
def test_preserve_lists_are_united(tiny_model: Model, method: str, options: dict[str, Any]) -> None:
    def erase(names: list[str], preserve: list[str]) -> Eraser:
        guides = () if method == "cure" else "dog"
        return efface.erase(tiny_model, names, guides, preserve=preserve, method=method, **options)

    one, two = erase(["cat"], ["horse"]), erase(["van gogh", "golf ball"], ["a red car", "horse"])
    both = efface.compose(one, two)
    direct = erase(["cat", "van gogh", "golf ball"], ["horse", "a red car"])
    assert both.request == direct.request
    assert near(both, direct)
    assert both.provenance["settings"] == direct.provenance["settings"]
    assert [part["concepts"] for part in both.provenance["composed"]] == [["cat"], ["van gogh", "golf ball"]]


def test_equal_long_preserve_lists_are_one_and_different_ones_leave_the_erasers_apart(tiny_model: Model) -> None:
    things = ("car", "boat", "house", "star", "cake", "bird", "apple", "parrot", "painting", "portrait")
    long = [f"{word} {thing}" for word in ("red", "blue", "flat", "line") for thing in things]
    one, two = (efface.erase(tiny_model, name, "dog", preserve=long) for name in ("cat", "van gogh"))
    assert "preserve.gram" in one.inputs
    assert near(efface.compose(one, two), efface.erase(tiny_model, ["cat", "van gogh"], "dog", preserve=long))
    three = efface.erase(tiny_model, "golf ball", "dog", preserve=["apple", *long[1:]])
    with pytest.warns(UserWarning, match="preserve different prompts.*one after the other"):
        assert len(efface.compose(one, three).parts) == 2


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_sums_over_two_lists_share_the_empty_prompt_only(tiny_model: Model, method: str) -> None:
    def erase(names: list[str], preserve: list[str]) -> Eraser:
        options: dict[str, Any] = {"variant": "window"} if method == "uce" else {}
        return efface.erase(tiny_model, names, "dog", preserve=preserve, method=method, **options)

    lists = ["horse", "house", "star"], ["a red car", "cake", "blue"]
    one, two = erase(["cat"], lists[0]), erase(["boat"], lists[1])
    assert near(efface.compose(one, two), erase(["cat", "boat"], [*lists[0], *lists[1]]))


def test_what_one_preserves_and_another_erases_is_erased(tiny_model: Model) -> None:
    one = efface.erase(tiny_model, "cat", "dog", preserve=["horse", "house"])
    two = efface.erase(tiny_model, "horse", "dog", preserve=["cat", "house"])
    with pytest.warns(UserWarning, match="preserved prompts that another of the erasers erases: 'cat', 'horse'"):
        both = efface.compose(one, two)
    assert near(both, efface.erase(tiny_model, ["cat", "horse"], "dog", preserve=["house"]))


def test_a_concept_in_two_erasers_is_erased_once_if_they_agree(tiny_model: Model) -> None:
    one, two = efface.erase(tiny_model, ["cat", "horse"], "dog"), efface.erase(tiny_model, ["horse", "boat"], "dog")
    assert near(efface.compose(one, two), efface.erase(tiny_model, ["cat", "horse", "boat"], "dog"))
    other = efface.erase(tiny_model, "horse", "bird")
    with pytest.raises(BadRequest, match=r"'horse'.*'dog'.*'bird'.*--without"):
        efface.compose(one, other)
    with pytest.raises(BadRequest, match="two erasers of uce"):
        efface.compose(one, efface.erase(tiny_model, "horse", "dog", lamb=0.1))
    with pytest.raises(BadRequest, match="given twice"):
        efface.compose(one, one)


def test_a_certificate_does_not_outlive_what_it_was_of_where_s_is_not_stored(tiny_model: Model) -> None:
    one = efface.erase(tiny_model, "cat", "dog", certify=True)
    assert one.certificate
    assert efface.compose(one, efface.erase(tiny_model, "horse", "dog")).certificate is None


def test_other_mixtures_pass_the_text_through_each_in_the_order_given(
    tiny_model: Model, tmp_path: Path, guided: Callable[..., Tensor]
) -> None:
    one, two = efface.erase(tiny_model, "cat", "dog"), efface.erase(tiny_model, "golf ball", "cat", lamb=1e-3)
    with pytest.warns(UserWarning, match=r"one after the other.*uce \('cat'\), then uce \('golf ball'\)"):
        both = efface.compose(one, two)
    assert both.concepts == ("cat", "golf ball")
    assert both.kind_of_edit == "text"
    assert both.provenance["applied"].startswith("one after the other")
    with one.attach(tiny_model), two.attach(tiny_model):
        expected = guided(tiny_model, PROMPTS)
    both.save(tmp_path / "both.safetensors")
    for eraser in (both, Eraser.load(tmp_path / "both.safetensors")):
        assert eraser.hash == both.hash
        with eraser.attach(tiny_model):
            torch.testing.assert_close(guided(tiny_model, PROMPTS), expected, rtol=1e-5, atol=1e-6)
        baked = eraser.bake(tiny_model)
        torch.testing.assert_close(guided(tiny_model, PROMPTS), expected, rtol=1e-4, atol=1e-5)
        baked.undo()
        assert same_edits(eraser.without("golf ball"), one)
        assert same_edits(eraser.only("golf ball"), two)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swapped = efface.compose(two, one)
    assert len(caught) == 1
    with swapped.attach(tiny_model):
        assert not torch.allclose(guided(tiny_model, PROMPTS), expected, rtol=1e-3, atol=1e-4)


def test_weight_edits_are_summed_from_the_base_and_come_off_bit_for_bit(tiny_model: Model, tmp_path: Path) -> None:
    names = ["cat", "horse", "golf ball", "boat"]
    each = {name: efface.erase(tiny_model, name, "dog", method="oce") for name in names}
    with pytest.warns(UserWarning, match="two rotations is no rotation.*: summed from the base"):
        whole = efface.compose(*each.values())
    with pytest.warns(UserWarning, match="two rotations is no rotation"):
        left = efface.compose(each["cat"], each["boat"])
    assert whole.provenance["applied"] == "summed from the base"
    whole.save(tmp_path / "whole.safetensors")
    rest = Eraser.load(tmp_path / "whole.safetensors").without("horse", "golf ball")
    assert same_edits(rest, left)
    assert same_edits(rest.without("boat"), each["cat"])
    before = parameters(tiny_model.denoiser)
    with left.attach(tiny_model):
        edited = parameters(tiny_model.denoiser)
    with rest.attach(tiny_model):
        assert same(parameters(tiny_model.denoiser), edited)
    assert same(parameters(tiny_model.denoiser), before)
    for name, tensor in edited.items():
        deltas = [edit.delta for part in left.parts for edit in part.edits if isinstance(edit, WeightEdit)
                  and edit.parameter == f"denoiser.{name}"]  # fmt: skip
        total = before[name].double() + sum(delta for delta in deltas if delta is not None)
        torch.testing.assert_close(tensor.double(), total, rtol=1e-5, atol=1e-6)


def test_a_text_edit_and_edits_of_the_denoiser_act_together_attached_and_baked(
    tiny_model: Model, guided: Callable[..., Tensor]
) -> None:
    text, weights = efface.erase(tiny_model, "cat", "dog"), efface.erase(tiny_model, "boat", "dog", method="oce")
    with pytest.warns(UserWarning, match="uce .*then oce"):
        both = efface.compose(text, weights)
    assert both.kind_of_edit == "weight"
    with both.attach(tiny_model):
        attached = guided(tiny_model, PROMPTS)
    baked = both.bake(tiny_model)
    torch.testing.assert_close(guided(tiny_model, PROMPTS), attached, rtol=1e-4, atol=1e-5)
    baked.undo()
    with weights.attach(tiny_model), text.attach(tiny_model):
        torch.testing.assert_close(guided(tiny_model, PROMPTS), attached, rtol=1e-5, atol=1e-6)
    assert both.only("cat") is text


def test_a_text_edit_and_an_edit_of_the_text_encoder_are_refused(tiny_model: Model) -> None:
    text = efface.erase(tiny_model, "cat", "dog")
    name = "text_encoder.encoder.layers.0.mlp.fc2.weight"
    encoder = replace(
        efface.erase(tiny_model, "boat", "dog", method="oce"), edits=(WeightEdit(name, delta=torch.ones(32, 64)),)
    )
    for pair in ((text, encoder), (encoder, text)):
        with pytest.raises(BadRequest, match="for the unedited model"):
            efface.compose(*pair)


@pytest.mark.filterwarnings("ignore:.*one after the other")
@pytest.mark.parametrize(("guard", "options"), [("negative", {}), ("sld", {"preset": "max"}), ("adavd", {})])
def test_one_guard_goes_with_a_text_edit(
    tiny_model: Model, guided: Callable[..., Tensor], guard: str, options: dict[str, Any]
) -> None:
    text, acting = efface.erase(tiny_model, "cat", ""), efface.erase(tiny_model, "boat", method=guard, **options)
    for both in (efface.compose(text, acting), efface.compose(acting, text)):
        assert both.kind_of_edit == "guard"
        plain = guided(tiny_model, PROMPTS)
        with text.attach(tiny_model):
            alone = guided(tiny_model, PROMPTS)
        with both.attach(tiny_model):
            assert not torch.allclose(guided(tiny_model, PROMPTS), alone, rtol=1e-5, atol=1e-6)
        assert torch.equal(guided(tiny_model, PROMPTS), plain)
        assert both.only("cat") is text


def test_two_guards_are_refused(tiny_model: Model) -> None:
    negative, sld = (
        efface.erase(tiny_model, name, method=name_) for name, name_ in (("cat", "negative"), ("boat", "sld"))
    )
    with pytest.raises(BadRequest, match="act while the model runs"):
        efface.compose(negative, sld)
    with pytest.raises(BadRequest, match="act while the model runs"):
        efface.compose(negative, efface.erase(tiny_model, "horse", method="negative"))


def test_erasers_of_different_models_are_refused_unless_forced(tiny_model: Model, other_sd: Path) -> None:
    one, two = efface.erase(tiny_model, "cat", "dog"), efface.erase(open_model(other_sd), "boat", "dog")
    with pytest.raises(WrongBase, match=r"different models.*--force"):
        efface.compose(one, two)
    assert efface.compose(one, two, force=True).concepts == ("cat", "boat")
    narrow = replace(two, edits=(TextEdit(torch.zeros(8, 1), torch.zeros(8, 1)),))
    with pytest.raises(WrongBase, match="different widths"):
        efface.compose(one, narrow, force=True)
    with pytest.raises(BadRequest, match="clip_skip"):
        efface.compose(one, efface.erase(tiny_model, "boat", "dog", clip_skip=1))


def test_the_same_model_in_half_precision_is_the_same(tiny_model: Model, tiny_sd: Path) -> None:
    half = open_model(open_model(tiny_sd, dtype=torch.bfloat16).pipeline())
    one, two = efface.erase(tiny_model, ["cat", "boat"], "dog"), efface.erase(half, ["boat", "horse"], "dog")
    assert one.base.hash != two.base.hash
    assert efface.compose(one, two).concepts == ("cat", "boat", "horse")


def test_another_denoiser_is_found_by_what_the_erasers_stored_of_it(tiny_model: Model) -> None:
    one, two = (efface.erase(tiny_model, name, "dog", method="rece") for name in ("cat", "boat"))
    other = replace(two, inputs={**two.inputs, "S": two.inputs["S"] * 1.1})
    with pytest.raises(WrongBase):
        efface.compose(one, other)
    one, two = (efface.erase(tiny_model, name, "dog", method="oce") for name in ("cat", "boat"))
    digests = {name: {"float16": "0", "bfloat16": "0"} for name in two.base.parameters}
    with pytest.raises(WrongBase):
        efface.compose(one, replace(two, base=replace(two.base, parameters=digests)))
