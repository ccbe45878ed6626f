"""Plug-ins by name: the built-in ones, those of other packages, and those registered in Python.

A module is imported when its entry is requested, so that listing names is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from efface.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name.

    Args:
        kind: The kind of the entries, for messages ("method", "judge").
        builtin: The built-in entries: "module:attribute" by name.
        group: The entry-point group of other packages' entries.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self.group = group
        self._builtin = frozenset(builtin)
        self._announced = {name: EntryPoint(name, target, group) for name, target in builtin.items()}
        self._entries: dict[str, T] = {}
        self._searched = False

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._search()
        return tuple(sorted({*self._announced, *self._entries}))

    def is_builtin(self, name: str) -> bool:
        """Whether efface itself has an entry of this name."""
        return name in self._builtin

    def get(self, name: str) -> T:
        """The entry of this name, imported on first use.

        Raises:
            UnknownName: There is no such entry; the message lists the existing ones.
        """
        if name not in self._entries:
            if name not in self._announced:
                self._search()
            if name not in self._announced:
                raise UnknownName(f"Unknown {self.kind} '{name}'; there is: {', '.join(self.names())}.")
            self._entries[name] = cast(T, self._announced[name].load())
        return self._entries[name]

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers an entry under `name`."""

        def add(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return add

    def _search(self) -> None:
        if not self._searched:
            self._searched = True
            for point in entry_points(group=self.group):
                self._announced.setdefault(point.name, point)
