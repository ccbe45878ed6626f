"""Prompts that the user lists: speed retains them exactly in every layer, and what a method leaves out is reported."""

import warnings
from typing import Any

import pytest
import torch

import efface
from efface import Model
from efface.methods.closed_form.speed_tokens import left_out
from support import low_rank_changes

LISTED = ["a horse", "blue bird", "car", "golf ball", "red star", "a boat in the house"]


def largest_shift(model: Model, prompts: list[str], **options: Any) -> float:
    """The largest change of a prompt's values in a layer, as a share of the largest change of the concept's."""
    changes = low_rank_changes(efface.erase(model, "cat", "dog", preserve=prompts, method="speed", **options))
    tokens, concept = (model.embed(texts).last_tokens.double() for texts in (prompts, ["cat"]))
    return max(float((tokens @ c.T).norm(dim=1).max() / (concept @ c.T).norm()) for c in changes.values())


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        (LISTED, {}),
        (LISTED[:1], {}),
        (LISTED[:2], {"kind": "unsafe"}),
        (LISTED, {"params": "KV", "aug_num": 2}),
        (LISTED, {"aug_num": 0, "threshold": 5.0}),
        ([*LISTED, *LISTED[:3], "a red house"], {"kind": "style", "lamb": 0.5}),
        (["image", "photo", "a flat line", "van gogh", "picasso", "parrot", "cake", "apple"], {"retain_scale": 0.05}),
    ],
)
def test_listed_prompts_keep_their_values_in_every_layer(
    tiny_model: Model, prompts: list[str], options: dict[str, Any]
) -> None:
    assert largest_shift(tiny_model, prompts, **options) < 1e-5


def test_the_published_filter_retains_few_of_them(tiny_model: Model) -> None:
    assert largest_shift(tiny_model, LISTED, disable_filter=False, threshold=5.0) > 0.01


def test_a_long_list_is_filtered_and_reported(tiny_model: Model) -> None:
    long = [
        f"{colour} {name}"
        for colour in ("red", "blue", "a")
        for name in ("car", "boat", "star", "cake", "bird", "horse")
    ]
    with pytest.warns(UserWarning, match="at most 16 preserved prompts exactly; of 18"):
        efface.erase(tiny_model, "cat", "dog", preserve=long, method="speed")


def test_a_list_as_one_text_edit_is_retained_exactly_also_after_restoring(tiny_model: Model) -> None:
    eraser = efface.erase(
        tiny_model, ["cat", "house"], "dog", preserve=LISTED[:5], method="speed", params="KV", aug_num=0, threshold=5.0
    )
    listed = tiny_model.embed(LISTED[:5]).last_tokens.double()
    for one in (eraser, eraser.without("house")):
        (edit,) = one.edits
        assert isinstance(edit, efface.TextEdit)
        torch.testing.assert_close(edit(listed), listed, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [("speed", {}), ("speed", {"params": "KV", "aug_num": 0}), ("nullspace", {"everyday": False, "layers": "0"})],
)
def test_every_prompt_that_is_left_out_is_reported(tiny_model: Model, method: str, options: dict[str, Any]) -> None:
    named = ["a red Cat", "cat art", "a CAT in the house"]
    with pytest.warns(UserWarning, match=f"{method} does not protect preserved prompts that") as caught:
        efface.erase(tiny_model, "cat", "dog", preserve=["horse", *named], method=method, **options)
    (message,) = [str(w.message) for w in caught if "does not protect" in str(w.message)]
    assert all(f"'{prompt}'" in message for prompt in named)
    assert "horse" not in message


@pytest.mark.parametrize("method", ["uce", "cure", "certified", "rece", "oce", "robust"])
def test_other_methods_leave_out_nothing_silently(tiny_model: Model, method: str) -> None:
    """A preserved prompt that names the concept changes the eraser, or the output reports it."""
    options: dict[str, Any] = {"robust": {"rounds": 0}}.get(method, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one, other = (
            efface.erase(tiny_model, "cat", preserve=prompts, method=method, **options)
            for prompts in (["horse"], ["horse", "cat art"])
        )
    reported = any("does not protect" in str(w.message) for w in caught)
    same = all(str(a) == str(b) for a, b in zip(one.edits, other.edits, strict=True))
    assert reported or not same or one.request == other.request


def test_a_composition_reports_all_prompts_that_it_erases(tiny_model: Model) -> None:
    first = efface.erase(tiny_model, "cat", "dog", preserve=["horse", "boat", "star"], method="uce")
    second = efface.erase(tiny_model, ["horse", "boat"], "house", method="uce")
    third = efface.erase(tiny_model, ["horse", "boat"], "house", method="oce")
    for other in (second, third):
        with pytest.warns(UserWarning, match="does not protect preserved prompts that another.*'boat', 'horse'"):
            efface.compose(first, other)


@pytest.mark.parametrize(("name", "left"), [("C++", "a C++ book"), ("...", "the ... sign"), ("R&B", "an R&B song")])
def test_names_that_begin_or_end_with_other_signs(name: str, left: str) -> None:
    request = efface.Request.make(name, method="speed", preserve=[left, "a book", f"a x{name}x book"])
    assert left_out(request) == [left]


@pytest.mark.parametrize("again", [["horse"], ["horse ", "bird"], [" horse", "horse", "horse"]])
def test_a_prompt_that_is_listed_again_weighs_no_more(again: list[str], loud_model: Model) -> None:
    once, several = (
        efface.erase(loud_model, "cat", "dog", preserve=p) for p in (["horse", "bird"], ["horse", "bird", *again])
    )
    assert several.request.preserve == once.request.preserve
    assert several.hash == once.hash
