from pathlib import Path

import pytest
from safetensors import safe_open

import efface
from efface import BadFile
from efface.files import sha256_of_tensors


def contents(path: Path) -> dict[str, tuple[str, object]]:
    """The hash of the tensors and the metadata by file; safetensors writes the entries of the metadata in any order."""
    files = [path] if path.is_file() else list(path.rglob("*.safetensors"))
    content: dict[str, tuple[str, object]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            content[str(file.relative_to(path))] = (sha256_of_tensors(tensors), opened.metadata())
    return content


@pytest.mark.parametrize("format", ["kohya", "uce", "diffusers"])
def test_it_returns_what_the_command_prints(answer, tiny_sd, eraser, format):
    eraser.save("cat.safetensors")
    one, two, three = (f"{name}{'' if format == 'diffusers' else '.safetensors'}" for name in ("one", "two", "three"))
    printed = answer("export", "cat.safetensors", "--format", format, "--model", tiny_sd, "-o", one)
    result = efface.export("cat.safetensors", format, two, model=tiny_sd)
    assert {**result.to_json(), "path": one} == printed
    assert contents(Path(one)) == contents(Path(two))
    in_memory = efface.export(eraser, format, three, model=tiny_sd).to_json()
    assert in_memory == {**printed, "path": three, "eraser": None}


def test_an_existing_file_is_not_replaced(tiny_sd, eraser, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(BadFile, match="already exists"):
        efface.export(eraser, "lora", path, model=tiny_sd)
    assert efface.export(eraser, "lora", path, model=tiny_sd, force=True).bytes == path.stat().st_size > 1
