"""`efface judges`: who can say what an image shows."""

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the judges and where they come from."""
    from efface.cli.output import Screen
    from efface.judges import JUDGES

    screen = Screen(json)
    entries = [JUDGES.get(name) for name in JUDGES.names()]
    for entry in entries:
        screen.heading(entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  {entry.source}")
    screen.answer(
        {"judges": [{"name": entry.name, "summary": entry.summary, "source": entry.source} for entry in entries]}
    )
