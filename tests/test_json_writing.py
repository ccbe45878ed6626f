"""The writer of JSON, which all code uses that prints or stores JSON of efface."""

import json
import re
from pathlib import Path
from typing import Any

import efface
from efface.cli.output import Screen
from efface.json_writing import json_text
from efface.metrics.base import Measured

SRC = Path(efface.__file__).parent
#: Code with another purpose: cells of tables, the header of safetensors, and files in the formats of other libraries.
OTHERS = {"json_writing.py", "tables.py", "tensor_writing.py", "formats/unchanged.py"}


def strict(text: str) -> Any:
    """The value of a JSON text, as a program reads it that knows neither NaN nor Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null() -> None:
    value = {"a": [1.5, float("nan"), (float("inf"),)], "b": {"c": float("-inf"), "é": True}, "d": 10**30}
    assert strict(json_text(value)) == {"a": [1.5, None, [None]], "b": {"c": None, "é": True}, "d": 10**30}
    assert json_text({"é": 1}) == '{"é": 1}'
    assert json_text({"é": 1}, ascii_only=True) == '{"\\u00e9": 1}'


def test_a_command_prints_valid_json_for_a_metric_without_a_value(capsys: Any) -> None:
    few = Measured(float("nan"), float("-inf"), float("inf"), 1, "score", "emoji-clip", "")
    Screen(json=True).answer({"distances": {"kid": few.as_dict()}})
    found = strict(capsys.readouterr().out)["distances"]["kid"]
    assert (found["value"], found["low"], found["high"], found["n"]) == (None, None, None, 1)


def test_no_other_code_writes_json() -> None:
    writes = re.compile(r"json\.dumps?\(")
    for path in SRC.rglob("*.py"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if writes.search(line)]
        is_other = path.relative_to(SRC).as_posix() in OTHERS
        assert is_other or all("sha256" in line for line in lines), path
