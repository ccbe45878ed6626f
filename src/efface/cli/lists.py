"""`efface attacks`, `judges`, `methods`, `models`, `protocols`: what options can name, with defaults and papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed
from efface.errors import UnknownName

if TYPE_CHECKING:
    from efface.cli.output import Screen

Name = Annotated[str | None, typer.Argument(metavar="NAME", help="One entry, with the meaning of each setting.")]
Only = Annotated[str | None, typer.Argument(metavar="NAME", help="Only this entry.")]


def attacks_command(
    name: Name = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the attacks with their settings and papers."""
    from efface.cli.catalogue import rows_of
    from efface.cli.output import Screen

    screen, rows = Screen(json), rows_of("attacks", name)
    for row in rows:
        screen.heading(f"{row['name']} (default)" if row["default"] else row["name"])
        screen.say(f"  {row['summary']}")
        if name is None:
            screen.say(f"  settings: {', '.join(f'{key}={_value(value)}' for key, value in row['settings'].items())}")
        else:
            _print_settings(screen, row["settings"], row["explained"])
        screen.say(f"  {row['paper']}")
    screen.answer({"attacks": rows})


def judges_command(
    name: Only = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the judges with their sources."""
    from efface.cli.catalogue import rows_of
    from efface.cli.output import Screen

    screen, rows = Screen(json), rows_of("judges", name)
    for row in rows:
        screen.heading(row["name"])
        screen.say(f"  {row['summary']}")
        screen.say(f"  {row['source']}")
    screen.answer({"judges": rows})


#: How a method erases concepts after other erasers, by `Method.after`.
_AFTER = {
    None: "not supported, since it acts while the model runs",
    "edited": "solved on the edited model",
    "separate": "solved on the base, with the earlier concepts protected; on the edited model after another method",
}


def methods_command(
    name: Name = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the methods with their settings, defaults and papers; or explain the settings of one method.

    Example: efface methods uce
    """
    from efface.cli.catalogue import rows_of
    from efface.cli.output import Screen

    screen, rows = Screen(json), rows_of("methods", name)
    for row in rows:
        screen.heading(f"{row['name']}  ({row['edit']} edit)")
        screen.say(f"  {row['summary']}")
        screen.say(f"  paper {row['paper']}   reference {row['repository']}")
        screen.say(f"  --after: {_AFTER[row['after']]}")
        _print_settings(screen, row["defaults"], {} if name is None else row["explained"])
    screen.answer({"methods": rows})


def models_command(
    name: Only = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the models that --model takes: the embedded ones, and the pipelines that can be opened."""
    from efface.cli.catalogue import built_in
    from efface.cli.output import Screen

    screen, content = Screen(json), built_in()
    models = [row for row in content["models"] if name in (None, row["name"])]
    if not models:
        known = ", ".join(row["name"] for row in content["models"])
        raise UnknownName(f"'{name}' is no embedded model ({known}); efface inspect shows a model that can be opened.")
    for row in models:
        screen.heading(f"{row['name']}  (embedded, {row['bytes'] / 1e6:.0f} MB)")
        screen.say(f"  objects: {', '.join(row['objects'])}")
        screen.say(f"  styles: {', '.join(row['styles'])}")
    pipelines = content["pipelines"] if name is None else []
    if pipelines:
        screen.heading("a checkpoint in one file (.safetensors, .ckpt; NAME#ema opens the averaged weights)")
        screen.say("  Stable Diffusion 1.x and 2.x")
        screen.heading("a diffusers folder or hub id of a")
        for pipeline in pipelines:
            screen.say(f"  {pipeline}")
        screen.say(
            "  or any other pipeline whose denoiser takes encoder_hidden_states: PixArt, Sana, Qwen-Image, FLUX.2..."
        )
    screen.answer({"models": models, "pipelines": pipelines})


def protocols_command(
    name: Name = None,
    model: UnusedModel = "emoji",
    device: UnusedDevice = "auto",
    seed: UnusedSeed = 0,
    json: Json = False,
) -> None:
    """List the protocols, what they give, their settings and where they come from."""
    from efface.cli.catalogue import rows_of
    from efface.cli.output import Screen

    screen, rows = Screen(json), rows_of("protocols", name)
    for row in rows:
        screen.heading(row["name"])
        screen.say(f"  {row['summary']}")
        screen.say(f"  gives: {', '.join(row['metrics'])}")
        screen.say(f"  -n {row['n']}   {row['paper']}")
        if row["published_as"]:
            screen.say(f"  published with: {row['published_as']}")
        _print_settings(screen, row["defaults"], {} if name is None else row["explained"])
    screen.answer({"protocols": rows})


def _print_settings(screen: Screen, defaults: dict[str, Any], explained: dict[str, str]) -> None:
    """One line for each setting: its default, and its meaning if that is given."""
    for key, value in defaults.items():
        meaning = f"    {explained[key]}" if key in explained else ""
        screen.say(f"  -s {key}={_value(value)}{meaning}")


def _value(value: object) -> object:
    """A default in the notation of `-s`."""
    if isinstance(value, list):
        return ",".join(map(str, cast(list[object], value)))
    return "(not set)" if value is None else value
