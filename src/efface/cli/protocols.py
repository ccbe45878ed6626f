"""`efface protocols`: the named evaluations."""

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the protocols, the rates they give and where they come from."""
    from efface.cli.output import Screen
    from efface.protocols import PROTOCOLS

    screen = Screen(json)
    entries = [PROTOCOLS.get(name) for name in PROTOCOLS.names()]
    for entry in entries:
        screen.heading(entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  rates: {', '.join(entry.metrics)}")
        screen.say(f"  {entry.paper}")
    screen.answer(
        {
            "protocols": [
                {"name": entry.name, "summary": entry.summary, "metrics": list(entry.metrics), "paper": entry.paper}
                for entry in entries
            ]
        }
    )
