"""Devices, as users name them."""

import pytest
import torch

from efface import BadInput
from efface.models.runtime import resolve_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that torch believes to have two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_the_gpu_and_each_launched_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    assert resolve_device(torch.device("cpu")) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == "cuda:1"
    with pytest.raises(BadInput, match="no device 'cuda:2' here; there are 2"):
        resolve_device("cuda:2")


def test_without_a_gpu_auto_is_the_cpu_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    for device in ("cuda", "mps", "cuda:0"):
        with pytest.raises(BadInput, match=f"'{device}' is not available"):
            resolve_device(device)
    with pytest.raises(BadInput, match="Unknown device 'gpu'"):
        resolve_device("gpu")
