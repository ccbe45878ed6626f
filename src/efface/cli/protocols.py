"""`efface protocols`: the named evaluations."""

from __future__ import annotations

from dataclasses import asdict

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def protocols_command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the protocols, what they give, their settings and where they come from."""
    from efface.cli.output import Screen
    from efface.protocols import PROTOCOLS

    screen = Screen(json)
    entries = [PROTOCOLS.get(name) for name in PROTOCOLS.names()]
    settings = {entry.name: entry.config().model_dump() if entry.config else {} for entry in entries}
    for entry in entries:
        screen.heading(entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  gives: {', '.join(metric.name for metric in entry.metrics)}")
        screen.say(f"  -n {entry.n}   {entry.paper}")
        if entry.published:
            screen.say(f"  published with: {entry.published}")
        for key, value in settings[entry.name].items():
            screen.say(f"  -s {key}={'' if value is None else value}")
    screen.answer(
        {
            "protocols": [
                {
                    "name": entry.name,
                    "summary": entry.summary,
                    "metrics": [metric.name for metric in entry.metrics],
                    "paper": entry.paper,
                    "n": entry.n,
                    "published": entry.published and asdict(entry.published),
                    "defaults": settings[entry.name],
                }
                for entry in entries
            ]
        }
    )
