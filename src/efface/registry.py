"""Plug-ins by name: the built-in ones, those of other packages, and those registered by hand.

Modules are imported when their entry is asked for, so that listing names costs nothing.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from efface.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """What can be chosen by name.

    Args:
        kind: what an entry is, for messages ("method", "judge").
        builtin: name -> "module:attribute" of the project's own.
        group: the entry-point group in which other packages announce theirs.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self.group = group
        self._announced = {name: EntryPoint(name, target, group) for name, target in builtin.items()}
        self._entries: dict[str, T] = {}
        self._searched = False

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._search()
        return tuple(sorted({*self._announced, *self._entries}))

    def get(self, name: str) -> T:
        """The entry called `name`, imported if need be.

        Raises:
            UnknownName: there is none; the message lists what there is.
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

        def keep(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return keep

    def _search(self) -> None:
        if not self._searched:
            self._searched = True
            for point in entry_points(group=self.group):
                self._announced.setdefault(point.name, point)
