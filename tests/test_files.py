import os
import stat
from pathlib import Path

import pytest
import torch

from efface.errors import BadFile
from efface.files import atomic, sha256_of_file, sha256_of_tensors


def write_half(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(BadFile, match="--force"), atomic(path, force=False):
        pass
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_permissions_are_those_of_any_new_file_or_of_the_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    umask = os.umask(0o027)
    try:
        with atomic(path) as temporary:
            temporary.touch(0o600)  # as safetensors makes its files
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o664)
        with atomic(path) as temporary:
            temporary.touch(0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o664
    finally:
        os.umask(umask)


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent" / "a.txt", tmp_path / "folder", Path("/proc/self/efface.txt")):
        with pytest.raises(BadFile) as caught, atomic(path) as temporary:
            temporary.write_text("x")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_hash_of_a_file_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_hash_of_tensors_knows_names_shapes_types_and_values_but_no_order() -> None:
    a, b = torch.arange(4.0), torch.ones(2, 2)
    one = sha256_of_tensors({"a": a, "b": b})
    assert one == sha256_of_tensors({"b": b, "a": a.clone()})
    others = [{"a": a, "c": b}, {"a": a, "b": b.flatten()}, {"a": a, "b": b.double()}, {"a": a + 1e-6, "b": b}]
    assert one not in [sha256_of_tensors(other) for other in others]


def test_half_precision_and_strided_tensors_can_be_hashed() -> None:
    matrix = torch.randn(3, 5, dtype=torch.bfloat16)
    assert sha256_of_tensors({"m": matrix.T}) == sha256_of_tensors({"m": matrix.T.contiguous()})
    assert sha256_of_tensors({"m": torch.zeros(())}) != sha256_of_tensors({"m": torch.zeros(0)})
