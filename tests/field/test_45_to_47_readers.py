"""Files that only look valid are rejected in one line, whatever a parser makes of them; damaged caches are not used."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import efface
from efface.attacks.attempts import Attempt
from efface.edits.kinds import GuardEdit, TextEdit
from efface.eraser.compose import side_by_side
from efface.eraser.eraser import Eraser
from efface.eraser.file import _seal
from efface.eraser.record import Base
from efface.errors import BadFile, BadInput
from efface.files import from_cache, keep_in_cache
from efface.formats.reading import read_checkpoint
from efface.generation.folder import cache_image, cached_image, read_folder, write_picture
from efface.generation.runs import runs_in_one_folder
from efface.image_files import is_blank, read_picture
from efface.judges.base import Verdict
from efface.judges.q16 import read_vectors
from efface.judges.verdicts import read_verdicts, write_verdicts
from efface.metrics.fid import FeatureStatistics
from efface.models.storage.folder import read_json
from efface.models.storage.headers import read_headers
from efface.models.tensor_cache import load_tensor, store_tensor
from efface.parsing import parse_json, parse_yaml
from efface.request.record import Request
from efface.sealed import read_sealed, write_sealed
from efface.tables import read_table


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An eraser with every kind of stored input, and with a guard."""
    request = Request.make(["cat", "horse"], "dog")
    rows = torch.eye(4, dtype=torch.float64)
    inputs = {"edited": rows[:2], "guides": rows[2:], "owner": torch.tensor([0, 1]), "S": rows}
    inputs |= {"preserve.rows": rows[:3], "preserve.lengths": torch.tensor([1, 2])}
    settings = {"token_sim": True, "sigmoid_a": 100.0, "sigmoid_b": 0.9, "sigmoid_c": 2.0, "joint": False}
    guard = GuardEdit("adavd", {"concepts": rows[:2], "empty": rows}, settings)
    base = Base("m", "sd", "0", ("cat", "horse"), rows[:2])
    eraser = Eraser(request, (TextEdit(rows[:, :1], rows[:, :1]), guard), base, inputs, {"settings": {}})
    eraser.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def resealed(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Change an eraser's header and tensors, with a checksum that fits."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, tensors = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["efface"]), load_file(path)
    change(header, tensors)
    header.pop("sha256")
    save_file(tensors, path, {"efface": json.dumps({**header, "sha256": _seal(header, tensors)})})


NESTED: Any = []
for _ in range(80):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "change",
    [
        lambda h, t: h["base"].update(probes={}),
        lambda h, t: h["base"].update(parameters=[1]),
        lambda h, t: h.update(edits=[5, 5]),
        lambda h, t: h["edits"][0].update(stream={}),
        lambda h, t: h["edits"][1]["settings"].update(sigmoid_a="x"),
        lambda h, t: h["edits"][1]["settings"].pop("joint"),
        lambda h, t: h.update(provenance={"after": [3]}),
        lambda h, t: h.update(provenance={"certificate": {"concepts": 1}}),
        lambda h, t: h.update(provenance={"note": NESTED}),
        lambda h, t: h.update(request="cat"),
        lambda h, t: t.update({"input.owner": torch.tensor([0, 7])}),
        lambda h, t: t.update({"input.owner": torch.tensor([0.0, 1.0])}),
        lambda h, t: t.update({"input.edited": torch.zeros(3, 4)}),
        lambda h, t: t.update({"input.S": torch.zeros(4, 4).to(torch.float8_e4m3fn)}),
        lambda h, t: t.update({"input.S": torch.zeros(4, 4, dtype=torch.complex64)}),
        lambda h, t: t.update({"input.preserve.lengths": torch.tensor([-1, 4])}),
        lambda h, t: t.update({"base.embeddings": torch.zeros(0, 4)}),
        lambda h, t: t.update({"edit.0.left": torch.full((4, 1), torch.nan)}),
        lambda h, t: t.update({"edit.1.concepts": torch.zeros(2, 2, 4)}),
        lambda h, t: t.pop("edit.1.empty"),
    ],
)
def test_an_eraser_with_another_structure_is_rejected_though_its_checksum_fits(saved: Path, change: Any) -> None:
    assert Eraser.load(saved).concepts == ("cat", "horse")
    resealed(saved, change)
    with pytest.raises(BadInput) as caught:
        Eraser.load(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


CERTIFICATE = {"fingerprint": "0", "concepts": {name: {"free": 1.0} for name in ("cat", "Horse")}}


def test_facts_in_two_places_of_an_eraser_are_the_same(saved: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "b.safetensors", Eraser.load(saved)
    concepts = whole.request.concepts
    requests = [whole.request.model_copy(update={"concepts": (concept,)}) for concept in concepts]
    halves = [Eraser(request, (edit,), whole.base) for request, edit in zip(requests, whole.edits, strict=True)]
    for change in (
        lambda h: h["request"]["concepts"].pop(),
        lambda h: h["parts"][1]["request"]["concepts"][0].update(name="boat"),
        lambda h: h["edits"].pop(),
        lambda h: h["edits"][0].update(stream="pooled"),
        lambda h: h["provenance"].update(certificate={**CERTIFICATE, "concepts": {"cat": {"free": 1.0}}}),
    ):
        Eraser.of(side_by_side(halves)).save(path, force=True)
        resealed(path, lambda h, t: h["provenance"].update(certificate=CERTIFICATE))
        assert Eraser.load(path).concepts == ("cat", "horse")
        resealed(path, lambda h, t, change=change: change(h))
        with pytest.raises(BadFile, match="not those of"):
            Eraser.load(path)


ATTEMPT = {
    "prompt": "a cat",
    "seed": 3,
    "needless": False,
    "success": True,
    "fresh": None,
    "found": None,
    "images": 4,
    "seconds": 1.5,
    "error": "",
}


@pytest.mark.parametrize(
    "values", [{"seed": -1}, {"images": -2}, {"seconds": float("nan")}, {"success": "yes"}, {"x": 1}, {"prompt": None}]
)
def test_attempts_of_no_writer_are_rejected(values: dict[str, Any]) -> None:
    assert Attempt.from_dict(ATTEMPT).images == 4
    with pytest.raises(BadFile):
        Attempt.from_dict({**ATTEMPT, **values})


@pytest.mark.parametrize(
    "row",
    [
        Verdict("a.png", "cat", "yes", 0.2, "j", "1", 0.5),
        Verdict("a.png", "cat", "no", 0.7, "j", "1", 0.5),
        Verdict("a.png", "cat", "error", 0.7, "j", "1", 0.5, "broken"),
        Verdict("a.png", "cat", "no", float("nan"), "j", "1", 0.5),
        Verdict("a.png", "cat", "maybe", 0.2, "j", "1", 0.5),  # pyright: ignore[reportArgumentType]
        Verdict("a.png", "cat", "no", 0.2, "j", "1", float("inf")),
        Verdict("a.png", "", "no", 0.2, "j", "1", 0.5),
    ],
)
def test_verdicts_of_no_writer_are_rejected(row: Verdict, tmp_path: Path) -> None:
    good = Verdict("a.png", "cat", "yes", 0.7, "j", "1", 0.5)
    write_verdicts(tmp_path / "v.parquet", [good])
    assert read_verdicts(tmp_path / "v.parquet") == [good]
    write_verdicts(tmp_path / "v.parquet", [good, row])
    with pytest.raises(BadFile):
        read_verdicts(tmp_path / "v.parquet")


LINE = {"file_name": "a.png", "key": "k", "prompt": "p", "concept": "c", "seed": 1, "guidance": 7.5, "steps": 4}


@pytest.mark.parametrize(
    "values",
    [{"seed": "1"}, {"model_hash": {}}, {"guidance": 1e999}, {"prompt": ["p"]}, {"file_name": 5}, {"steps": 0}],
)
def test_metadata_of_no_writer_are_rejected(values: dict[str, Any], tmp_path: Path) -> None:
    row = {**LINE, "sampler": "ddim", "model": "m", "model_hash": "h"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n" + '{"partial')
    assert len(read_folder(tmp_path)) == 1
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**row, **values}) + "\n")
    with pytest.raises(BadFile):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["prompts.json", "prompts.jsonl", "prompts.txt"])
@pytest.mark.parametrize("prompt", ['"a \\ud800 cat"', "[" * 500 + "]" * 500, "9" * 5000])
def test_prompts_in_json_have_the_limits_of_json(name: str, prompt: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f'{{"prompt": {prompt}}}\n' * 2 if name.endswith("l") else f'[{{"prompt": {prompt}}}]')
    with pytest.raises(BadFile, match=r"line 1: (a text|it is|a number)"):
        read_table(tmp_path / name, "the prompts", "prompt")


def test_a_header_that_is_nested_too_deeply_is_rejected(tmp_path: Path) -> None:
    header = b"[" * 100_000 + b"]" * 100_000
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadFile, match="nested too deeply"):
        read_headers([tmp_path / "a.safetensors"])


def test_metadata_of_other_tools_may_have_a_key_and_any_label(tmp_path: Path) -> None:
    rows = ({"file_name": f"{index}.png", "key": f"{index:09}", "concept": index / 2} for index in range(2))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = read_folder(tmp_path)
    assert [image.row["key"] for image in images] == ["000000000", "000000001"]
    assert runs_in_one_folder(images) == 0


@pytest.mark.parametrize(
    "text",
    ["[" * 500 + "]" * 500, "[" * 200_000, '{"a": NaN}', "[1e999]", "9" * 5000, '["\\ud800"]', '{"a": -Infinity}', "{"],
)
def test_json_beyond_the_limits_is_rejected(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadFile):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(20)),
        "a0: &a0 {k: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 20)),
        "&a [*a]",
        "[" * 5000,
        "a: .nan",
        "a: " + "9" * 5000,
        "a: 0x" + "f" * 500,
        "!!python/object:os.system x",
        "a: 2001-99-99",
        "a: b: c",
    ],
)
def test_yaml_beyond_the_limits_is_rejected_at_once(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason
        parse_yaml(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadFile) as caught:
        Request.from_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def npy(descr: str, shape: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_arrays_that_claim_other_sizes_are_rejected(tmp_path: Path) -> None:
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.ones((2, 8)))
    assert read_vectors(vectors).shape == (2, 8)
    for header in (
        npy("<f8", "(2, 500000000000)"),
        npy("|O", "(2, 8)"),
        npy("<f8", "(2, 9)"),
        npy("<f8", "(((2, 8)"),
        npy("<c16", "(2, 4)"),
    ):
        vectors.write_bytes(header + bytes(128))
        with pytest.raises(BadFile):
            read_vectors(vectors)
    statistics = tmp_path / "s.npz"
    with zipfile.ZipFile(statistics, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", npy("<f8", "(1000000000,)") + bytes(300 << 20))
    with pytest.raises(BadFile, match="MiB"):
        FeatureStatistics.load(statistics)
    for mean, covariance in ((np.ones(0), np.eye(0)), (np.ones(2) * np.nan, np.eye(2)), (np.ones(2), -np.eye(2))):
        np.savez(statistics, mu=mean, sigma=covariance)
        with pytest.raises(BadFile):
            FeatureStatistics.load(statistics)


def test_checkpoints_that_loop_or_claim_more_than_they_have_are_rejected(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"x": torch.zeros(2)}
    loop["state_dict"] = loop
    for content in (
        loop,
        {"x": torch.zeros(1).expand(10**6, 10**6)},
        {"x": torch.eye(2).to_sparse()},
        {"x": torch.zeros(2, dtype=torch.complex64)},
        {"x": torch.zeros(2).to(torch.float8_e5m2)},
        {"x": torch.tensor(torch.inf)},
    ):
        for new in (True, False):
            torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
            with pytest.raises(BadFile):
                [read() for read in read_checkpoint(tmp_path / "a.pt").tensors.values()]


def test_pictures_are_limited_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(OSError, match="megapixels"):
        read_picture(path)
    Image.new("RGB", (6000, 4000), (10, 200, 30)).save(path, compress_level=1)
    pixels = read_picture(path)
    assert pixels.shape == (2000, 3000, 3)
    assert (pixels == (10, 200, 30)).all()
    assert is_blank(pixels)


def test_damaged_cache_entries_and_states_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    caplog.set_level("INFO", "efface")
    store_tensor(tmp_path / "S.safetensors", "S", torch.eye(4))
    assert load_tensor(tmp_path / "S.safetensors", "S", (4, 4)) is not None
    save_file({"S": 2 * torch.eye(4)}, tmp_path / "S.safetensors")
    assert load_tensor(tmp_path / "S.safetensors", "S", (4, 4)) is None
    assert caplog.text.count("is damaged, and is computed again") == 1
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    cache_image("ab" * 8, picture)
    assert (cached_image("ab" * 8) == picture).all()
    (file,) = (tmp_path / "images").rglob("*.png")
    Image.fromarray(255 - picture).save(file, format="JPEG")
    assert cached_image("ab" * 8) is None
    keep_in_cache(tmp_path / "x", lambda path: path.write_text("x"))
    assert from_cache(tmp_path / "x") == tmp_path / "x"
    write_sealed(tmp_path / "state", {"step": 1}, {"x": torch.zeros(2)})
    assert read_sealed(tmp_path / "state", "a state")[0] == {"step": 1}
    save_file({"x": torch.ones(2)}, tmp_path / "state", {"efface": '{"step": 1}', "sha256": "0"})
    with pytest.raises(BadFile, match="checksum"):
        read_sealed(tmp_path / "state", "a state")


def test_an_image_that_was_changed_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "out"
    efface.generate("a cat", n=2, steps=1, folder=folder)
    efface.judge(folder, "cat")
    assert "changed" not in caplog.text
    changed = sorted(folder.glob("*.png"))[1]
    write_picture(changed, np.full((64, 64, 3), 80, np.uint8))
    efface.judge(folder, "cat")
    assert f"Images changed after they were generated: 1 of 2, the first is {changed}." in caplog.text
