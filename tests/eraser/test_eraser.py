"""An eraser's file, and its parts."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import efface
from efface import BadFile, BadRequest, Eraser
from efface.eraser.file import _seal
from efface.models import Model


@pytest.fixture
def eraser(tiny_model: Model) -> Eraser:
    return efface.erase(tiny_model, ["cat", "golf ball", "van gogh"], ["dog", "", "art"], preserve=["house", "a car"])


def matrix(eraser: Eraser) -> torch.Tensor:
    (edit,) = eraser.edits
    assert isinstance(edit, efface.TextEdit)
    return edit.matrix


def test_it_is_read_as_it_was_written_bit_for_bit(eraser: Eraser, tmp_path: Path) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    again = Eraser.load(path)
    assert again.request == eraser.request
    assert again.provenance == eraser.provenance
    assert again.hash == eraser.hash
    for edit, other in zip(eraser.edits, again.edits, strict=True):
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in edit.tensors().items())
    assert eraser.inputs.keys() == again.inputs.keys()
    assert all(torch.equal(tensor, again.inputs[name]) for name, tensor in eraser.inputs.items())
    assert torch.equal(again.base.embeddings, eraser.base.embeddings)
    assert (again.base.model, again.base.hash, again.base.probes) == (
        eraser.base.model,
        eraser.base.hash,
        eraser.base.probes,
    )
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_it_is_one_file_that_is_not_overwritten_unasked(eraser: Eraser, tmp_path: Path) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode, "others cannot read it"
    with pytest.raises(BadFile, match="--force"):
        eraser.save(path)
    eraser.save(path, force=True)


def test_a_file_cut_short_anywhere_is_refused(eraser: Eraser, tmp_path: Path) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile) as caught:
            Eraser.load(path)
        assert path.name in str(caught.value)


def test_a_file_altered_anywhere_is_refused(eraser: Eraser, tmp_path: Path) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    name = whole.index(b"golf")
    for position in (3, name, header // 2, 8 + header + 5, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BadFile):
            Eraser.load(path)


def test_what_is_no_eraser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(BadFile, match="no eraser file"):
        Eraser.load(path)
    with pytest.raises(BadFile):
        Eraser.load(tmp_path)
    for metadata in (None, {"efface": "[]"}, {"efface": "{"}):
        save_file({"unet.weight": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(BadFile):
            Eraser.load(path)
    save_file({"x": torch.zeros(2)}, path, metadata={"efface": json.dumps({"format": 99})})
    with pytest.raises(BadFile, match="upgrade"):
        Eraser.load(path)
    path.write_bytes(b"\x80\x04\x95pickle?")
    with pytest.raises(BadFile):
        Eraser.load(path)


def test_a_header_without_a_part_is_refused_though_its_checksum_fits(eraser: Eraser, tmp_path: Path) -> None:
    path = tmp_path / "eraser.safetensors"
    eraser.save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["efface"])
    for missing in ("request", "edits", "base", "provenance"):
        rest = {key: value for key, value in header.items() if key not in (missing, "sha256")}
        rest["sha256"] = _seal(rest, tensors)
        save_file(tensors, path, metadata={"efface": json.dumps(rest)})
        with pytest.raises(BadFile, match=f"not a complete eraser.*{missing}"):
            Eraser.load(path)


def test_restoring_some_concepts_is_erasing_the_others(eraser: Eraser, tiny_model: Model, tmp_path: Path) -> None:
    direct = efface.erase(tiny_model, ["cat", "van gogh"], ["dog", "art"], preserve=["house", "a car"])
    eraser.save(tmp_path / "eraser.safetensors")
    for source in (eraser, Eraser.load(tmp_path / "eraser.safetensors")):
        rest = source.without("golf ball")
        assert rest.concepts == ("cat", "van gogh")
        torch.testing.assert_close(matrix(rest), matrix(direct), rtol=0, atol=1e-10)
        torch.testing.assert_close(matrix(source.only("van gogh", "cat")), matrix(direct), rtol=0, atol=1e-10)
        one = efface.erase(tiny_model, "van gogh", "art", preserve=["house", "a car"])
        torch.testing.assert_close(matrix(rest.without("Cat")), matrix(one), rtol=0, atol=1e-10)


def test_what_is_not_in_it_cannot_be_restored(eraser: Eraser) -> None:
    with pytest.raises(BadRequest, match="no concept 'cow'"):
        eraser.without("cow")
    with pytest.raises(BadRequest, match="leaves no concept"):
        eraser.without("cat", "golf ball", "van gogh")


def test_its_hash_tells_edits_apart(eraser: Eraser, tiny_model: Model) -> None:
    again = efface.erase(tiny_model, ["cat", "golf ball", "van gogh"], ["dog", "", "art"], preserve=["house", "a car"])
    assert again.hash == eraser.hash
    assert eraser.without("cat").hash != eraser.hash
    weights = efface.erase(tiny_model, "cat", "dog", method="oce")
    assert tiny_model.denoiser is not None  # from now on its weights are not read from the file
    assert efface.erase(tiny_model, "cat", "dog", method="oce").hash == weights.hash
    assert eraser.kind_of_edit == "text"
    assert eraser.rank == 3
    assert eraser.nbytes == 2 * 3 * tiny_model.width * 8
