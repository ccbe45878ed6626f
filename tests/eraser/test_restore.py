"""Ten concepts are erased and three given back: what is left is the eraser of the other seven."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import efface
from efface import Eraser, Model
from efface.errors import NeedsModel
from efface.methods import METHODS

TEN = ["cat", "horse", "house", "boat", "bird", "golf ball", "cake", "apple", "star", "van gogh"]
BACK = ["horse", "golf ball", "van gogh"]
LEFT = [name for name in TEN if name not in BACK]
KEPT = ["a red car", "blue"]

#: Methods that can be split, with the settings under which they can, and how near to erasing seven they come.
SPLIT: list[tuple[str, dict[str, Any], float]] = [
    ("uce", {}, 1e-10),
    ("uce", {"variant": "window"}, 1e-10),
    ("uce", {"variant": "window", "technique": "tensor"}, 1e-10),
    ("cure", {}, 1e-10),
    ("certified", {}, 1e-10),
    ("rece", {}, 1e-10),
    ("speed", {"params": "KV", "aug_num": 0}, 1e-10),
    ("adavd", {}, 0.0),
    ("esd", {"iterations": 2, "ddim_steps": 4, "reuse": 2, "lr": 1e-3, "train_method": "esd-x-strict"}, 0.0),
    ("cie", {"iter_break": 2, "images": 2, "sampling_steps": 2, "lr": 1e-3}, 0.0),
    ("lora", {"iterations": 2, "max_denoising_steps": 4, "reuse": 2, "lr": 1e-3}, 0.0),
    ("ablate", {"train_max_steps": 2, "train_size": 2, "batch_size": 1, "sampling_steps": 1, "base_lr": 1e-3}, 0.0),
]
pytestmark = pytest.mark.filterwarnings("ignore:.*(has no (guides|preserve list)|one after the other)")


def erase(model: Model, concepts: list[str], method: str, options: dict[str, Any]) -> Eraser:
    return efface.erase(model, concepts, "dog", preserve=KEPT, method=method, **options)


def changes(eraser: Eraser) -> list[Tensor]:
    """What does not depend on how an edit was factored."""
    found: list[Tensor] = []
    for edit in eraser.edits:
        if isinstance(edit, efface.TextEdit):
            found.append(edit.matrix)
        elif isinstance(edit, efface.WeightEdit):
            rows = next(len(tensor) for name, tensor in edit.tensors().items() if name != "down")
            found.append(edit.value((rows, -1)))
        else:
            found += edit.tensors().values()
    return found


def distance(one: Eraser, other: Eraser) -> float:
    pairs = zip(changes(one), changes(other), strict=True)
    return max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)


@pytest.mark.parametrize(("method", "options", "tolerance"), SPLIT)
def test_restoring_three_of_ten_is_erasing_the_other_seven(
    tiny_model: Model, method: str, options: dict[str, Any], tolerance: float
) -> None:
    whole, direct = erase(tiny_model, TEN, method, options), erase(tiny_model, LEFT, method, options)
    rest = whole.without(*BACK)
    assert rest.concepts == tuple(LEFT)
    assert distance(rest, direct) <= tolerance
    assert rest.hash != whole.hash


#: What is not solved again together is summed, and stays in parts.
TOGETHER = [row for row in SPLIT if METHODS.get(row[0]).combine and not METHODS.get(row[0]).trained]


@pytest.mark.parametrize(("method", "options", "tolerance"), TOGETHER)
def test_composing_two_is_erasing_all_in_one_request(
    tiny_model: Model, method: str, options: dict[str, Any], tolerance: float
) -> None:
    one, two = erase(tiny_model, TEN[:4], method, options), erase(tiny_model, TEN[4:], method, options)
    whole, both = erase(tiny_model, TEN, method, options), efface.compose(one, two)
    assert both.request == whole.request
    assert not both.parts
    assert distance(both, whole) <= tolerance
    assert both.provenance["settings"] == whole.provenance["settings"]
    assert distance(both.without(*BACK), whole.without(*BACK)) <= tolerance


@pytest.mark.parametrize(("method", "options"), [("speed", {}), ("speed", {"params": "K"}), ("oce", {})])
def test_what_stored_too_little_is_split_with_the_model_at_hand(
    tiny_model: Model, other_sd: Path, method: str, options: dict[str, Any]
) -> None:
    whole, direct = erase(tiny_model, TEN, method, options), erase(tiny_model, LEFT, method, options)
    with pytest.raises(NeedsModel, match=r"cannot be split without the model.*--model"):
        whole.without(*BACK)
    rest = whole.without(*BACK, model=tiny_model)
    assert rest.concepts == tuple(LEFT)
    assert distance(rest, direct) <= 1e-10
    assert distance(whole.only(*LEFT, model=tiny_model), direct) <= 1e-10
    with pytest.raises(efface.WrongBase):
        whole.without(*BACK, model=str(other_sd))
    beside = efface.compose(whole, erase(tiny_model, ["parrot"], "cure", {}))
    (left, _) = beside.without(*BACK, model=tiny_model).parts
    assert distance(left, direct) <= 1e-10


def test_every_method_either_is_in_that_list_or_refuses(tiny_model: Model) -> None:
    for name in METHODS.names():
        # SPEED's default edits each layer in a way of its own; robust replays what it found for all (test_robust.py);
        # what sepce does to a concept depends on the others that it spares (test_sepce.py).
        if name not in {"robust", "sepce", *(method for method, _, _ in SPLIT if method != "speed")}:
            quick = {"layers": "0,1", "epochs": 1, "adam_steps": 1, "batch_size": 1, "sampling_steps": 1}
            eraser = erase(tiny_model, ["cat", "horse"], name, quick if name == "nullspace" else {})
            with pytest.raises(efface.BadRequest, match="split"):
                eraser.without("cat")
