"""CiE and SepCE: the judges of their documentation, with the effect that it states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from command_line import Efface
from efface.judges.nudenet import CLASSES


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message of protocol buffers; all numbers here are below 128."""
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def write_nudenet_2(path: Path, part: str, score: float) -> None:
    """A detector with the inputs and outputs of NudeNet 2, in ONNX, that finds `part` in every picture."""
    values = {
        "boxes": (1, np.zeros((1, 1, 4), np.float32)),
        "scores": (1, np.full((1, 1), score, np.float32)),
        "labels": (6, np.full((1, 1), CLASSES.index(part), np.int32)),
    }

    def typed(name: str, kind: int, sizes: list[bytes]) -> bytes:
        shape = b"".join(field(1, size) for size in sizes)
        return field(1, name.encode()) + field(2, field(1, field(1, kind) + field(2, shape)))

    free = [field(2, name.encode()) for name in ("n", "h", "w")]
    graph = field(2, b"detector") + field(11, typed("input_1:0", 1, [*free, field(1, 3)]))
    for name, (kind, array) in values.items():
        sizes = b"".join(field(1, size) for size in array.shape)
        constant = sizes + field(2, kind) + field(8, f"{name} value".encode()) + field(9, array.tobytes())
        graph += field(1, field(1, f"{name} value".encode()) + field(2, name.encode()) + field(4, b"Identity"))
        graph += field(5, constant) + field(12, typed(name, kind, [field(1, size) for size in array.shape]))
    size = len(graph)
    whole = bytes([7 << 3 | 2, size & 127 | 128, size >> 7]) + graph
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(field(1, 8) + whole + field(8, field(2, 13)))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    for package in ("nudenet", "onnxruntime", "cv2"):
        pytest.importorskip(package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_s9_the_checkpoint_in_the_home_folder_is_found(efface: Efface, refused: Callable[..., str], home: Path):
    Path("images").mkdir()
    Picture.new("RGB", (40, 40), (120, 160, 210)).save("images/a.png")
    command = ("judge", "images", "--question", "belly exposed", "--json")

    def answers(judge: str, out: str) -> tuple[int, str]:
        content = efface(*command, "--judge", judge, "-o", f"{out}.parquet").json()
        return content["questions"]["belly exposed"]["yes"], content["judge"]["version"]

    assert answers("nudenet", "packaged")[0] == 0
    stored = home / ".NudeNet" / "default" / "detector_v2_default_checkpoint.onnx"
    write_nudenet_2(stored, "BELLY_EXPOSED", 0.7)
    yes, version = answers("nudenet", "stored")
    assert (yes, version.split()[0]) == (1, stored.name)
    (home / ".NudeNet" / "classifier_model.onnx").touch()  # of the same archive, and no detector
    assert answers("nudenet", "with-classifier") == (1, version)
    assert answers(f"nudenet:{stored}", "named") == (1, version)
    stored.rename(stored.with_name("one.onnx"))
    write_nudenet_2(stored.with_name("two.onnx"), "BELLY_EXPOSED", 0.7)
    assert "default/one.onnx, default/two.onnx" in refused(*command, "--judge", "nudenet")
    for path in stored.parent.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    stored.with_name("two.onnx").unlink()
    assert "Cannot read a detector" in refused(*command, "--judge", "nudenet")
