"""What the documentation names is there."""

import importlib
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

API = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", re.findall(r"^::: (\S+)$", API, flags=re.MULTILINE))
def test_the_api_names_what_there_is(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert resolve_name(f"{module}:{attribute}").__module__ == module
