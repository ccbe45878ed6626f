"""Text encoders make room for the denoiser that is trained, and come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import efface
from efface.methods.training.text_encoders import Waiting
from efface.models.families import parts


def test_prompts_are_embedded_before_the_denoiser_is_loaded(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = parts.load_part

    def recording(folder: Any, part: str, *more: Any) -> Any:
        loaded.append(part)
        return load(folder, part, *more)

    monkeypatch.setattr(parts, "load_part", recording)
    options: dict[str, Any] = {"iterations": 1, "max_denoising_steps": 2, "reuse": 1, "resolution": 16}
    efface.erase(saved("sdxl"), "cat", method="lora", **options)
    assert loaded.index("text_encoder_2") < loaded.index("unet")


class Moved(nn.Linear):
    """A layer that records where it is moved to, and is too large for one device."""

    def __init__(self, too_large_for: str | None = None) -> None:
        super().__init__(1, 1)
        self.devices: list[str] = []
        self.too_large_for = too_large_for

    def to(self, *arguments: Any, **options: Any) -> Moved:
        self.devices.append(str(arguments[0]))
        if self.devices[-1] == self.too_large_for:
            raise torch.OutOfMemoryError
        return self


def test_encoders_leave_and_come_back_where_there_is_room() -> None:
    small, large = Moved(), Moved(too_large_for="cuda")
    waiting = Waiting([small, large], torch.device("cuda"))
    waiting.start()
    assert small.devices == large.devices == ["cpu"]
    with waiting.interrupted():
        assert small.devices[-1] == "cuda"
    waiting.end()
    assert small.devices == ["cpu", "cuda", "cpu", "cuda"]
    assert large.devices[-2:] == ["cuda", "cpu"]
