"""What a trained method brings to the loop, and the generators that it draws from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.methods.training.weights import Weights
from efface.settings import Settings

# Settings that every trained method has.


class TrainingConfig(Settings):
    """What the loop reads, by the names of accelerate and diffusers' training scripts.

    Attributes:
        seed: Of noise, timesteps and the order of the data.
        gradient_accumulation_steps: Forward passes of one step of the optimiser, in each process.
        mixed_precision: The type that forward passes compute in; None is what `accelerate launch` was told, else "no".
        save_freq: Keep the eraser as it is after every so many steps, beside the log.
        report_to: A tracker to log to, which must be installed; losses go to the log's JSON lines in any case.
    """

    seed: int = Field(default=0, ge=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    save_freq: int | None = Field(default=None, ge=1)
    report_to: Literal["tensorboard", "trackio", "wandb"] | None = None


Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]


class Objective(ABC):
    """What a trained method brings.

    Attributes:
        weights: What is trained.
        iterations: How many steps, at most.
        clip_norm: The norm that gradients are cut to; None leaves them.
        keeps_gradients: Never set them to zero, so that each step follows the sum of all gradients so far.
        data: A digest of what determines the outcome beside the request and the settings, such as a file's content.
    """

    weights: Weights
    iterations: int
    clip_norm: float | None = None
    keeps_gradients: bool = False
    data: str = ""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A new optimiser of the parameters of `weights`."""

    @abstractmethod
    def batch(self, slot: int, step: int) -> Batch:
        """What `loss` reads; called without gradient, in order of the steps, and a function of its arguments.

        Ctrl-C may come in between: what `state` gives must change last, if at all.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """What is minimised, as "loss", and what else is worth a log, all scalars.

        A student's prediction that needs no gradient is best made after those that do.
        """

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        """Whether to stop after `step` steps, given the last one's losses, averaged over all slots."""
        return False

    def state(self) -> dict[str, Tensor]:
        """What the batches and `finished` depend on beside slot and step, of the slots drawn in this process."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        """Take up what `state` gave, in all processes together; `slots` are those that this one will draw."""
        assert not tensors


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU for these numbers, unrelated to those for others."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
