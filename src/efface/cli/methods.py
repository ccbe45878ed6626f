"""`efface methods`: the ways to erase."""

from typing import cast

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the methods with their settings, defaults and papers."""
    from efface.cli.output import Screen
    from efface.methods import METHODS

    screen = Screen(json)
    entries = [METHODS.get(name) for name in METHODS.names()]
    defaults = {entry.name: entry.config().model_dump() for entry in entries}
    for entry in entries:
        screen.heading(f"{entry.name}  ({entry.edit} edit)")
        screen.say(f"  {entry.summary}")
        screen.say(f"  paper {entry.paper}   reference {entry.repository}")
        for key, value in defaults[entry.name].items():
            screen.say(f"  -s {key}={_written(value)}")
    screen.answer(
        {
            "methods": [
                {
                    "name": entry.name,
                    "summary": entry.summary,
                    "edit": entry.edit,
                    "paper": entry.paper,
                    "repository": entry.repository,
                    "defaults": defaults[entry.name],
                }
                for entry in entries
            ]
        }
    )


def _written(value: object) -> object:
    """A default as `-s` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, cast(tuple[object, ...], value)))
    return "(set by the rest)" if value is None else value
