"""Files of tensors: the safetensors library reads every type that is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from efface.tensor_writing import write_tensors

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
TYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8]
TYPES += [torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_library_reads_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": (torch.arange(6).reshape(2, 3) % 2).to(dtype).T, "b": torch.ones(1), "none": torch.zeros(0, 3)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"note": "text"})
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"note": "text"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert read.dtype == tensor.dtype
            assert read.tolist() == tensor.tolist()
