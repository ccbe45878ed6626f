import importlib
import sys

import pytest

import efface
from efface.errors import UnknownName
from efface.methods import METHODS
from efface.registry import Registry


def test_builtins_are_imported_only_when_asked_for() -> None:
    registry: Registry[object] = Registry(
        "thing", {"calendar": "this_is_not_there:x", "json": "json:dumps"}, "no.group"
    )
    assert registry.names() == ("calendar", "json")
    assert registry.get("json") is importlib.import_module("json").dumps


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'uec'.*uce"):
        METHODS.get("uec")


def test_a_registered_entry_is_found() -> None:
    registry: Registry[int] = Registry("thing", {}, "no.group")
    registry.register("seven")(7)
    assert registry.get("seven") == 7
    assert registry.names() == ("seven",)


def test_the_public_names_exist_and_stay_functions() -> None:
    importlib.import_module("efface.api.erase")
    for name in efface.__all__:
        assert getattr(efface, name) is not None
    assert callable(efface.erase)
    assert "efface.erase" not in sys.modules
    with pytest.raises(AttributeError):
        efface.nothing  # noqa: B018
