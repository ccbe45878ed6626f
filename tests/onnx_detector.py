"""A detector with the inputs and outputs of NudeNet 2, as a file in ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface.judges.nudenet import CLASSES

INPUT = b"input_1:0"
FLOAT, INT32, INT64 = 1, 6, 7
_MEAN = 114.799  # of the means that are subtracted from the images


def write_nudenet_2(path: Path, part: str, score: float | None = None) -> None:
    """A detector that finds `part` in every picture.

    Args:
        path: The file.
        part: The part.
        score: Its score; None for the picture's mean brightness, from 0 to 1.
    """
    constants: dict[str, tuple[int, NDArray[Any]]] = {
        "boxes": (FLOAT, np.zeros((1, 1, 4), np.float32)),
        "labels": (INT32, np.full((1, 1), CLASSES.index(part), np.int32)),
    }
    graph = _field(2, b"detector")
    if score is None:
        numbers = {"mean": _MEAN, "scale": 1 / 255}
        for name, number in numbers.items():
            graph += _initial(name, FLOAT, np.full((1,), number, np.float32))
        graph += _initial("shape", INT64, np.ones(2, np.int64))
        graph += _node("ReduceMean", [INPUT.decode()], "level") + _node("Add", ["level", "mean"], "light")
        graph += _node("Mul", ["light", "scale"], "share") + _node("Reshape", ["share", "shape"], "scores")
    else:
        constants["scores"] = (FLOAT, np.full((1, 1), score, np.float32))
    for name, (kind, array) in constants.items():
        graph += _initial(f"{name} value", kind, array) + _node("Identity", [f"{name} value"], name)
    free = [_field(2, name.encode()) for name in ("n", "h", "w")]
    graph += _field(11, _typed(INPUT, FLOAT, [*free, _field(1, 3)]))
    shapes = {"boxes": (FLOAT, (1, 1, 4)), "scores": (FLOAT, (1, 1)), "labels": (INT32, (1, 1))}
    for name, (kind, shape) in shapes.items():
        graph += _field(12, _typed(name.encode(), kind, [_field(1, size) for size in shape]))
    size = len(graph)
    whole = bytes([7 << 3 | 2, size & 127 | 128, size >> 7]) + graph
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_field(1, 8) + whole + _field(8, _field(2, 13)))


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a message of protocol buffers; all numbers here are below 128."""
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def _initial(name: str, kind: int, array: NDArray[Any]) -> bytes:
    sizes = b"".join(_field(1, size) for size in array.shape)
    return _field(5, sizes + _field(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes()))


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    read = b"".join(_field(1, name.encode()) for name in inputs)
    return _field(1, read + _field(2, output.encode()) + _field(4, operator.encode()))


def _typed(name: bytes, kind: int, sizes: list[bytes]) -> bytes:
    shape = b"".join(_field(1, size) for size in sizes)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))
