"""What every method, command and picture was before the code moved, it still is.

All cases, also those that take longer: `python tests/golden/record.py --compare`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, FRAGILE, GOLDEN, MESSAGES, SLOW, differences, matches, processor
from lab import Lab

RECORDED: dict[str, Any] = json.loads(GOLDEN.read_text())
SAME = RECORDED["processor"] == processor()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("golden").resolve())


@pytest.mark.parametrize("name", [name for name in CASES if not matches(name, SLOW)])
def test_it_is_what_it_was(lab: Lab, name: str) -> None:
    if not SAME and matches(name, FRAGILE):
        pytest.skip("another processor rounds otherwise")
    assert differences(name, RECORDED["cases"][name], lab.run_case(name, CASES[name]), SAME) == []


@pytest.mark.parametrize("name", MESSAGES)
def test_a_mistake_ends_as_it_did(lab: Lab, name: str) -> None:
    codes: list[int] = []
    lab.run_case(f"messages/{name}", lambda lab: {"exact": codes.append(MESSAGES[name](lab).code)})
    assert codes == [RECORDED["messages"][name]["code"]]


def test_every_case_is_recorded() -> None:
    assert CASES.keys() == RECORDED["cases"].keys()
    assert MESSAGES.keys() == RECORDED["messages"].keys()
