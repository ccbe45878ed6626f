from pathlib import Path

import efface
from efface import Eraser
from efface.api.result import eraser_json


def test_it_returns_what_the_command_prints(answer, tiny_sd, eraser):
    efface.export(eraser, "kohya", "lora.safetensors", model=tiny_sd)
    printed = answer("import", "lora.safetensors", "--concept", "cat", "--to", "dog", "--model", tiny_sd)
    imported = efface.import_eraser("lora.safetensors", tiny_sd, "cat", "dog")
    settings = imported.provenance["settings"]
    content = {**eraser_json(imported, Path(printed["eraser"])), "parameters": len(imported.edits)}
    content |= {name: settings[name] for name in ("format", "sha256")}
    del content["kind_of_edit"]
    assert content == printed
    assert Eraser.load(printed["eraser"]).hash == imported.hash
