"""The contract of exporters: these tests run for each registered one."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from safetensors.torch import save_file

import efface
from efface import BadInput, Eraser, Model, export, open_model
from efface.formats import EXPORTERS
from support import parameters, random32, same

pytestmark = pytest.mark.parametrize("name", EXPORTERS.names())


@pytest.fixture
def eraser(name: str, tiny_model: Model, tmp_path: Path) -> Eraser:
    return erased_for(name, tiny_model, tmp_path, ["cat", "golf ball"], ["dog", "horse"])


def erased_for(name: str, model: Model, folder: Path, concepts: list[str], guides: list[str]) -> Eraser:
    """An eraser that changes the part that the format has."""
    part = EXPORTERS.get(name).part
    if part == "denoiser":
        return efface.erase(model, concepts, guides)
    parameter, weight = next((key, value) for key, value in model.weights(part) if key.endswith("fc2.weight"))
    (folder / "source").mkdir(exist_ok=True)
    path = folder / "source" / f"{concepts[0]}.safetensors"
    save_file({f"{part}.{parameter}": weight + 0.1 * random32(*weight.shape, seed=len(concepts))}, path)
    return efface.import_eraser(path, model, concepts)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    (tmp_path / "written").mkdir()
    return tmp_path / "written" / f"exported{EXPORTERS.get(name).suffix}"


def content(path: Path) -> dict[str, object]:
    """Each file's bytes; of a safetensors file the header as an object, whose metadata is in random order."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    found: dict[str, object] = {}
    for file in files:
        name, read = str(file.relative_to(path.parent)), file.read_bytes()
        end = 8 + int.from_bytes(read[:8], "little")
        found[name] = (json.loads(read[8:end]), read[end:]) if file.suffix == ".safetensors" else read
    return found


def test_its_entry_is_complete(name: str) -> None:
    exporter = EXPORTERS.get(name)
    assert exporter.name == name
    assert exporter.summary
    assert len(exporter.summary) < 120
    assert exporter.suffix == "" or exporter.suffix.startswith(".")


def test_it_writes_what_it_says_and_the_same_each_time(
    name: str, eraser: Eraser, tiny_sd: Path, path: Path, tmp_path: Path
) -> None:
    exported = export(eraser, name, path, model=open_model(tiny_sd))
    assert exported.path == path
    assert path.is_dir() is (EXPORTERS.get(name).suffix == "")
    assert exported.parameters > 0
    assert (exported.rank is None) is not EXPORTERS.get(name).takes_rank
    assert exported.error == 0
    assert eraser.hash in repr(content(path)), "no file names the eraser"
    (tmp_path / "again").mkdir()
    export(eraser, name, tmp_path / "again" / path.name, model=open_model(tiny_sd))
    assert content(tmp_path / "again" / path.name) == content(path)


def test_the_model_is_unchanged(name: str, eraser: Eraser, tiny_model: Model, path: Path) -> None:
    before = parameters(tiny_model.denoiser)
    export(eraser, name, path, model=tiny_model)
    assert same(parameters(tiny_model.denoiser), before)
    assert not any(module._forward_pre_hooks for module in tiny_model.denoiser.modules())


def test_an_export_is_replaced_by_force_alone(name: str, eraser: Eraser, tiny_model: Model, path: Path) -> None:
    export(eraser, name, path, model=tiny_model)
    before, other = content(path), erased_for(name, tiny_model, path.parent.parent, ["car"], ["dog"])
    with pytest.raises(BadInput) as caught:
        export(other, name, path, model=tiny_model)
    assert "\n" not in str(caught.value)
    assert content(path) == before
    export(other, name, path, model=tiny_model, force=True)
    assert content(path) != before


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    name: str, eraser: Eraser, tiny_model: Model, path: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    message = ""
    try:
        with small_disk():
            export(eraser, name, path, model=tiny_model)
    except BadInput as error:
        message = str(error)
    if message:
        assert "Cannot write" in message
        assert "\n" not in message
        assert not list(path.parent.iterdir())
    else:
        assert path.stat().st_size <= 20_000, "it grew beyond the disk"


def test_what_no_weight_holds_and_an_unread_rank_are_refused(
    name: str, eraser: Eraser, tiny_model: Model, path: Path, other_sd: Path
) -> None:
    with pytest.raises(BadInput, match="in no weight"):
        export(efface.erase(tiny_model, "cat", method="negative"), name, path, model=tiny_model)
    if not EXPORTERS.get(name).takes_rank:
        with pytest.raises(BadInput, match="--rank"):
            export(eraser, name, path, model=tiny_model, rank=1)
    with pytest.raises(efface.WrongBase):
        export(eraser, name, path, model=open_model(other_sd))
    assert not list(path.parent.iterdir())
