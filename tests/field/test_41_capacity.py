"""More concepts than a text encoder has room for: the number that fits and the worst errors are reported."""

import re
import warnings
from typing import Any

import pytest

import efface
from efface import Model

COLOURS, NAMES = ("red", "blue", "a"), ("cat", "horse", "car", "boat", "bird", "star", "cake", "house")
MANY = [f"{colour} {name}" for colour in COLOURS for name in NAMES]


@pytest.mark.parametrize("method", ["uce", "certified", "rece", "cure", "robust"])
def test_too_many_concepts_are_reported_with_the_worst_errors(tiny_model: Model, method: str) -> None:
    options: dict[str, Any] = {"robust": {"rounds": 0}}.get(method, {})
    with pytest.warns(UserWarning, match="About 16 concepts fit the 32 dimensions") as caught:
        efface.erase(tiny_model, MANY, "dog", method=method, **options)
    (message,) = [str(one.message) for one in caught if "About 16" in str(one.message)]
    assert "the request has 24" in message
    numbers = [float(number) for number in re.findall(r"(\d+)%", message)]
    assert len(numbers) == (1 if method == "cure" else 2)
    assert numbers[-1] > 20


@pytest.mark.parametrize("method", ["uce", "certified", "cure"])
def test_a_request_that_fits_is_not_reported(tiny_model: Model, method: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="About")
        efface.erase(tiny_model, MANY[:16], "dog", method=method)


def test_the_reported_error_is_that_of_the_edit(tiny_model: Model) -> None:
    with pytest.warns(UserWarning, match="About 16") as caught:
        eraser = efface.erase(tiny_model, MANY, "dog", preserve=["golf ball"])
    (edit,) = eraser.edits
    assert isinstance(edit, efface.TextEdit)
    tokens = tiny_model.embed(MANY).last_tokens.double()
    guide = tiny_model.embed(["dog"]).last_tokens.double()
    missed = ((edit(tokens) - guide).norm(dim=1) / (tokens - guide).norm(dim=1)).max()
    assert f"left at {float(missed):.0%} of" in str(caught[0].message)
