"""`efface models`: what can be opened."""

from typing import Any

from efface.cli.options import Json, UnusedDevice, UnusedModel, UnusedSeed


def command(
    model: UnusedModel = "emoji", device: UnusedDevice = "auto", seed: UnusedSeed = 0, json: Json = False
) -> None:
    """List the models that --model takes: the embedded one, and the kinds of pipeline that can be brought."""
    from efface.cli.output import Screen
    from efface.models.emoji import HERE, catalogue
    from efface.models.open import FAMILIES

    screen = Screen(json)
    world = catalogue()
    content: dict[str, Any] = {
        "name": "emoji",
        "objects": [thing.name for thing in world.objects],
        "styles": [style.name for style in world.styles],
        "bytes": sum(file.stat().st_size for file in (HERE / "weights").rglob("*") if file.is_file()),
    }
    screen.heading(f"emoji  (embedded, {content['bytes'] / 1e6:.0f} MB)")
    screen.say(f"  objects: {', '.join(content['objects'])}")
    screen.say(f"  styles: {', '.join(content['styles'])}")
    screen.heading("a checkpoint in one file (.safetensors, .ckpt; #ema behind its name: averaged weights)")
    screen.say("  Stable Diffusion 1.x and 2.x")
    screen.heading("a diffusers folder or hub id of a")
    for pipeline in FAMILIES:
        screen.say(f"  {pipeline}")
    screen.say(
        "  or any other pipeline whose denoiser takes encoder_hidden_states: PixArt, Sana, Qwen-Image, FLUX.2..."
    )
    screen.answer({"models": [content], "pipelines": list(FAMILIES)})
