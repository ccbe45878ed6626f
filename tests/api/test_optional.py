"""None for an optional argument of a verb is an argument that is not given."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import efface
from efface import Model, Request
from efface.api.optional import none_is_not_given

VERBS = (
    *("attack", "compare", "compose", "erase", "erase_each", "evaluate", "export", "fetch", "generate"),
    *("generate_classes", "generate_each", "generate_grid", "import_eraser", "inspect", "judge", "judge_each", "plan"),
    *("propose_adjacent", "train_judge"),
)


@none_is_not_given
def verb(first: int, second: tuple[int, ...] = (), *rest: int | None, third: int = 3, **others: object) -> object:
    return first, second, rest, third, others


def test_none_takes_the_default_and_other_values_stay() -> None:
    given: Any = verb
    assert given(1) == given(1, None, third=None) == given(1, second=None) == (1, (), (), 3, {})
    assert given(0, (0,), None, third=0, more=None) == (0, (0,), (None,), 0, {"more": None})
    assert given(None) == (None, (), (), 3, {})
    with pytest.raises(TypeError, match="first"):
        given(third=None)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_the_rule(name: str) -> None:
    function = getattr(efface, name)
    assert inspect.unwrap(function) is not function


def test_an_eraser_is_the_same_with_none_for_all_optional_arguments(tiny_model: Model) -> None:
    optional = {
        name: None
        for name, parameter in inspect.signature(efface.erase).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    options: Any = optional
    assert len(optional) >= 14
    assert efface.erase(tiny_model, "cat", **options).hash == efface.erase(tiny_model, "cat").hash
    assert efface.erase(tiny_model, "cat", None).request == efface.erase(tiny_model, "cat").request
    assert Request.make("cat", None, preserve=None) == Request.make("cat")


def test_images_and_verdicts_with_none(tiny_sd: Path) -> None:
    options: Any = {"n": None, "seed": None, "strength": None, "size": None, "file_names": None, "device": None}
    result = efface.generate("a cat", model=str(tiny_sd), steps=1, **options)
    assert result.rows == efface.generate("a cat", model=str(tiny_sd), steps=1).rows
    questions: Any = {"judge": None, "table": None, "device": None, "force": None}
    assert set(efface.judge(result, "cat", **questions).questions) == {"cat"}
    with pytest.raises(efface.BadInput, match="Nothing to ask"):
        efface.judge(result, None)  # type: ignore[arg-type]
