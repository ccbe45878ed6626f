"""A list of events, in which concepts are erased and restored, and the eraser after each event."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from efface.errors import BadInput
from efface.files import read_text
from efface.request.record import folded

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.models import Model

Verb = Literal["erase", "restore"]
_EVENT = re.compile(r"(erase|restore)\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        verb: What happens.
        names: The concepts.
    """

    verb: Verb
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verb} {', '.join(self.names)}"


def read_events(text: str) -> list[Event]:
    """Read events from a text, or from the file that it names.

    Args:
        text: Events such as "erase cat; erase dog, horse; restore cat", or a file with one event per line. Empty lines
            are ignored.

    Raises:
        BadFile: The file cannot be read.
        BadInput: There is no event, or a line is no event.
    """
    is_file = not _EVENT.match(text.strip())
    lines = read_text(Path(text.strip()), "events").splitlines() if is_file else text.split(";")
    events: list[Event] = []
    for line in filter(None, map(str.strip, lines)):
        match = _EVENT.fullmatch(line)
        names = tuple(filter(None, map(str.strip, match[2].split(",")))) if match else ()
        if match is None or not names:
            raise BadInput(f"'{line}' is no event; write erase or restore and concepts, as in 'erase cat, dog'.")
        events.append(Event(cast(Verb, match[1].lower()), names))
    if not events:
        raise BadInput(f"{text} has no events; write one per line, such as 'erase cat'.")
    return events


def default_events(concepts: Sequence[str]) -> list[Event]:
    """Each concept is erased in turn; then the first is restored, if there are several."""
    events = [Event("erase", (name,)) for name in concepts]
    return [*events, Event("restore", (concepts[0],))] if len(concepts) > 1 else events


def erasers_after(name: str, eraser: Eraser, events: Sequence[Event], model: Model) -> dict[str, Eraser]:
    """The eraser of the concepts that are erased after each event.

    Args:
        name: The name of the eraser in results.
        eraser: An eraser of all concepts of the events, which can be split.
        events: The events.
        model: The unedited model, for methods that need it to restore concepts.

    Returns:
        By name the eraser after each event, "NAME 1" and so on, or "NAME" for a single event. Its provenance has the
        event.

    Raises:
        BadInput: An event does not fit the eraser or the events before it, or the eraser cannot be split.
    """
    known = {folded(concept): concept for concept in eraser.concepts}
    erased: set[str] = set()
    states: dict[str, Eraser] = {}
    for number, event in enumerate(events, 1):
        for concept in event.names:
            _apply(event, concept, erased, known, name)
        title = name if len(events) == 1 else f"{name} {number:0{len(str(len(events)))}}"
        names = [concept for key, concept in known.items() if key in erased]
        state = _only(eraser, names, model)
        provenance = {**state.provenance, "event": str(event), "scenario": name}
        states[title] = replace(state, provenance=provenance)
    return states


def _apply(event: Event, concept: str, erased: set[str], known: Mapping[str, str], name: str) -> None:
    """Change the set of erased concepts, by their folded names."""
    key = folded(concept)
    if key not in known:
        raise BadInput(f"'{event}' needs an eraser of '{concept}', but {name} erases {', '.join(known.values())}.")
    if (key in erased) == (event.verb == "erase"):
        state = "erased already" if key in erased else "not erased"
        raise BadInput(f"'{event}' is not possible, because '{concept}' is {state} at that time.")
    erased.symmetric_difference_update({key})


def _only(eraser: Eraser, names: Sequence[str], model: Model) -> Eraser:
    """The eraser of some concepts; one that changes nothing for none."""
    if len(names) == len(eraser.concepts):
        return eraser
    if names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what restoring does to the other concepts is measured
            return eraser.only(*names, model=model)
    nothing = eraser.request.model_copy(update={"concepts": ()})
    return replace(eraser, request=nothing, edits=(), inputs={}, parts=())
