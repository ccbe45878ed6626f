"""`efface attacks`, `judges`, `methods`, `models`, `protocols`: what options can name, with defaults and papers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed

if TYPE_CHECKING:
    from efface.models.builtin import BuiltIn


def attacks_command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the attacks with their settings and papers."""
    from efface.attacks import ATTACKS, DEFAULT
    from efface.cli.output import Screen

    screen = Screen(json)
    rows: list[dict[str, Any]] = []
    for entry in map(ATTACKS.get, ATTACKS.names()):
        settings = entry.config()
        screen.heading(f"{entry.name} (default)" if entry.name in DEFAULT else entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  settings: {', '.join(f'{key}={value}' for key, value in settings.model_dump().items())}")
        screen.say(f"  {entry.paper}")
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "settings": settings.model_dump(mode="json"),
                "paper": entry.paper,
            }
        )
    screen.answer({"attacks": rows})


def judges_command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the judges with their sources."""
    from efface.cli.output import Screen
    from efface.judges import JUDGES

    screen = Screen(json)
    entries = [JUDGES.get(name) for name in JUDGES.names()]
    for entry in entries:
        screen.heading(entry.name)
        screen.say(f"  {entry.summary}")
        screen.say(f"  {entry.source}")
    rows = [{"name": entry.name, "summary": entry.summary, "source": entry.source} for entry in entries]
    screen.answer({"judges": rows})


#: How a method erases concepts after other erasers, by `Method.after`.
_AFTER = {
    None: "not supported, since it acts while the model runs",
    "edited": "solved on the edited model",
    "separate": "solved on the base, with the earlier concepts protected; on the edited model after another method",
}


def methods_command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the methods with their settings, defaults and papers."""
    from efface.cli.output import Screen
    from efface.methods import METHODS

    screen = Screen(json)
    rows: list[dict[str, Any]] = []
    for entry in map(METHODS.get, METHODS.names()):
        defaults = entry.config().model_dump()
        screen.heading(f"{entry.name}  ({entry.edit} edit)")
        screen.say(f"  {entry.summary}")
        screen.say(f"  paper {entry.paper}   reference {entry.repository}")
        screen.say(f"  --after: {_AFTER[entry.after]}")
        for key, value in defaults.items():
            screen.say(f"  -s {key}={_as_option(value)}")
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "edit": entry.edit,
                "paper": entry.paper,
                "repository": entry.repository,
                "after": entry.after,
                "defaults": defaults,
            }
        )
    screen.answer({"methods": rows})


def models_command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the models that --model takes: the embedded ones, and the pipelines that can be opened."""
    from efface.cli.output import Screen
    from efface.models.open import BUILT_IN, FAMILIES

    screen = Screen(json)
    embedded = [_embedded(name, built_in) for name, built_in in BUILT_IN.items()]
    for content in embedded:
        screen.heading(f"{content['name']}  (embedded, {content['bytes'] / 1e6:.0f} MB)")
        screen.say(f"  objects: {', '.join(content['objects'])}")
        screen.say(f"  styles: {', '.join(content['styles'])}")
    screen.heading("a checkpoint in one file (.safetensors, .ckpt; NAME#ema opens the averaged weights)")
    screen.say("  Stable Diffusion 1.x and 2.x")
    screen.heading("a diffusers folder or hub id of a")
    for pipeline in FAMILIES:
        screen.say(f"  {pipeline}")
    screen.say(
        "  or any other pipeline whose denoiser takes encoder_hidden_states: PixArt, Sana, Qwen-Image, FLUX.2..."
    )
    screen.answer({"models": embedded, "pipelines": list(FAMILIES)})


def _embedded(name: str, built_in: BuiltIn) -> dict[str, Any]:
    """The name, the world and the size of an embedded model."""
    world = built_in.world()
    return {
        "name": name,
        "objects": [thing.name for thing in world.objects],
        "styles": [style.name for style in world.styles],
        "bytes": sum(file.stat().st_size for file in built_in.folder.rglob("*") if file.is_file()),
    }


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


def _as_option(value: object) -> object:
    """A default in the notation of `-s`."""
    if isinstance(value, tuple):
        return ",".join(map(str, cast(tuple[object, ...], value)))
    return "(not set)" if value is None else value
