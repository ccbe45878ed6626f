"""`efface attacks`: what tries to bring an erased concept back."""

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the attacks, their settings and where they come from."""
    from efface.attacks import ATTACKS, DEFAULT
    from efface.cli.output import Screen

    screen = Screen(json)
    entries = [ATTACKS.get(name) for name in ATTACKS.names()]
    for entry in entries:
        screen.heading(f"{entry.name} (default)" if entry.name in DEFAULT else entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  settings: {', '.join(f'{k}={v}' for k, v in entry.config().model_dump().items())}")
        screen.say(f"  {entry.paper}")
    screen.answer(
        {
            "attacks": [
                {
                    "name": entry.name,
                    "summary": entry.summary,
                    "settings": entry.config().model_dump(mode="json"),
                    "paper": entry.paper,
                }
                for entry in entries
            ]
        }
    )
