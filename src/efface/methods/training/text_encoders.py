"""Text encoders that wait on the CPU while the denoiser is trained, so that a GPU holds one of both at a time.

A T5-XXL takes 9.5 GB in bf16. Prompts are embedded before the denoiser is loaded, and those of further concepts
on the CPU, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from efface.models.model import Model


@contextmanager
def waiting_on_cpu(model: Model) -> Generator[Waiting, None, None]:
    """A context in which the text encoders of a model that was opened from files are on the CPU.

    Those of a pipeline stay where its owner has put them.
    """
    from_files = model.folder is not None and model.device.type != "cpu"
    waiting = Waiting(model.text_encoders if from_files else (), model.device)
    waiting.start()
    try:
        yield waiting
    finally:
        waiting.end()


class Waiting:
    """Modules that can leave a device and come back.

    Args:
        modules: The modules.
        device: The device that they run on.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules, self._device = modules, device

    def start(self) -> None:
        """Move the modules to the CPU."""
        for module in self._modules:
            module.to("cpu")

    def end(self) -> None:
        """Move the modules back; one that the device has no memory for stays on the CPU, where it works too."""
        for module in self._modules:
            try:
                module.to(self._device)
            except torch.OutOfMemoryError:
                module.to("cpu")

    @contextmanager
    def interrupted(self) -> Generator[None, None, None]:
        """A context in which the modules are on their device, for work that uses the whole model."""
        self.end()
        try:
            yield
        finally:
            self.start()
