"""Mutations of safetensors files, of files of `torch.save`, of arrays of numpy, and of verdicts in Parquet."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzzing.text_mutations import RAW, changed_json, damaged


def changed_tensor(tensor: Tensor, draw: random.Random) -> Tensor:
    """Another tensor in the place of one: of another shape or type, empty, or not finite."""
    kind = draw.randrange(11)
    number = tensor.float() if tensor.dtype != torch.complex64 else tensor
    if kind == 0:
        return torch.zeros(0)
    if kind == 1:
        return tensor[None]
    if kind == 2:
        return tensor.reshape(-1)
    if kind == 3 and tensor.ndim >= 2:
        return tensor.transpose(0, 1).contiguous()
    if kind == 4:
        return torch.full_like(number, draw.choice((float("nan"), float("inf"))))
    if kind == 5:
        return number.to(torch.complex64)
    if kind == 6:
        return number.to(torch.float8_e4m3fn)
    if kind == 7:
        return number.to(torch.int64)
    if kind == 8:
        return tensor[: len(tensor) // 2].clone() if tensor.ndim else torch.tensor(10**12)
    if kind == 9:
        return number * 1e30
    return torch.tensor(-5)


def changed_tensors(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """Tensors with one of them changed, removed, renamed or added."""
    tensors = dict(tensors)
    name = draw.choice(sorted(tensors))
    kind = draw.randrange(6)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors["x" + name] = tensors.pop(name)
    elif kind == 2:
        tensors["x"] = torch.zeros(2)
    else:
        tensors[name] = changed_tensor(tensors[name], draw)
    return tensors or {"x": torch.zeros(1)}


def safetensors_file(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header or other tensors."""
    from safetensors.torch import load, save

    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    kind = draw.randrange(4)
    if kind == 0:  # the header, without regard to the data
        text = changed_json(header, draw).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]
    metadata: dict[str, str] = header.get("__metadata__") or {}
    tensors = load(content)
    if kind == 1 and metadata:
        name = draw.choice(sorted(metadata))
        try:
            metadata[name] = changed_json(json.loads(metadata[name]), draw)
        except ValueError:
            metadata[name] = draw.choice(RAW)
    elif kind == 2:
        return damaged(content, draw)
    else:
        tensors = changed_tensors(tensors, draw)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata or None)


def resealed_eraser(content: bytes, draw: random.Random) -> bytes:
    """An eraser with another header or other tensors, and a checksum that fits."""
    from safetensors.torch import load, save

    from efface.eraser.file import _seal  # pyright: ignore[reportPrivateUsage]

    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["efface"])
    tensors = load(content)
    if draw.random() < 0.5:
        text = changed_json(header, draw)
    else:
        tensors, text = changed_tensors(tensors, draw), json.dumps(header)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        header = json.loads(text)
        header.pop("sha256", None)
        header["sha256"] = _seal(header, tensors)
        text = json.dumps(header)
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    return save(tensors, {"efface": text.encode("utf-8", "replace").decode()})


def resealed_state(content: bytes, draw: random.Random) -> bytes:
    """A state of a training with another header or other tensors, and a checksum that fits."""
    from safetensors.torch import load, save

    from efface.sealed import _seal  # pyright: ignore[reportPrivateUsage]

    size = struct.unpack("<Q", content[:8])[0]
    text = json.loads(content[8 : 8 + size])["__metadata__"]["efface"]
    tensors = load(content)
    if draw.random() < 0.5:
        text = changed_json(json.loads(text), draw)
    else:
        tensors = changed_tensors(tensors, draw)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(tensors, {"efface": text, "sha256": _seal(text, tensors)})


def pickled(content: bytes, draw: random.Random) -> bytes:
    """A file of `torch.save` with other tensors, nesting, loops or types."""
    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    kind = draw.randrange(8)
    inner = state.get("state_dict", state)
    if kind == 0:
        loop: dict[str, Any] = dict(inner)
        loop["state_dict"] = loop
        state = loop
    elif kind == 1:
        for _ in range(draw.choice((3, 100, 400))):
            state = {draw.choice(("state_dict", "x")): state}
    elif kind == 2:
        state = {"state_dict": {**inner, "x": torch.zeros(1).expand(10**6, 10**6)}}
    elif kind == 3:
        state = {"state_dict": {**inner, "x": torch.eye(3).to_sparse()}}
    elif kind == 4:
        state = draw.choice(([1, 2], "x", 5, None, {}, {"state_dict": 5}, {1: torch.zeros(2)}, {"a": [torch.zeros(2)]}))
    elif kind == 5:
        return damaged(content, draw)
    else:
        state = {"state_dict": changed_tensors(dict(inner), draw)}
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=draw.random() < 0.7)
    return file.getvalue()


def npy_header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def npy_file(content: bytes, draw: random.Random) -> bytes:
    """A `.npy` file with another header, array or type."""
    kind = draw.randrange(4)
    if kind == 0:
        shape = draw.choice(("(2, 4)", "(10**12,)", "(1000000000000,)", "(2, -1)", "()", "(2L, 4L)", "'x'", "(" * 200))
        return npy_header(draw.choice(("<f4", "<f8", "|O", "<c8", "<i8", "|V4", "<U4", "xx")), shape) + content[128:]
    if kind == 1:
        return damaged(content, draw)
    array = np.load(io.BytesIO(content))
    file = io.BytesIO()
    np.save(file, changed_array(array, draw))
    return file.getvalue()


def changed_array(array: Any, draw: random.Random) -> Any:
    return draw.choice(
        (array * np.nan, array.astype(complex), array.astype(int), array[None], array[:0], array.T, array.astype("U8"),
         array.astype(np.float16), -array, array.astype(bool), array.ravel(), np.float64(3))
    )  # fmt: skip


def npz_file(content: bytes, draw: random.Random) -> bytes:
    """An `.npz` file with other arrays, or a claim of a size that it does not have."""
    import zipfile

    kind = draw.randrange(4)
    if kind == 0:
        return damaged(content, draw)
    arrays = dict(np.load(io.BytesIO(content)))
    name = draw.choice(sorted(arrays))
    file = io.BytesIO()
    if kind == 1:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for key in arrays:
                archive.writestr(
                    f"{key}.npy", npy_header("<f8", draw.choice(("(10000000000,)", "(8, 8)"))) + bytes(1 << 20)
                )
        return file.getvalue()
    if kind == 2:
        arrays[draw.choice(("", "x", "sigma", "mu"))] = arrays.pop(name)
    else:
        arrays[name] = changed_array(arrays[name], draw)
    np.savez(file, **arrays)
    return file.getvalue()


def verdicts(content: bytes, draw: random.Random) -> bytes:
    """A Parquet file with a value that no writer writes, or another schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if draw.random() < 0.3:
        return damaged(content, draw)
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    row, name = draw.choice(rows), draw.choice(sorted(rows[0]))
    kind = draw.randrange(4)
    if kind == 0:
        for one in rows:
            del one[name]
    elif kind == 1:
        for one in rows:
            one["x"] = 1
    elif kind == 2:
        numbers = name in ("score", "threshold")
        row[name] = draw.choice(
            (float("nan"), 1e300, -3.0, None) if numbers else ("", "maybe", None, "\x1b", "x" * 10**5)
        )
    else:
        rows = [{**one, name: draw.choice((1, None, [1], {"a": 1}))} for one in rows[:1]]
    file = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), file)
    except (pa.ArrowException, TypeError):
        return damaged(content, draw)
    return file.getvalue()
