"""The objective that a trained method provides to the loop, the settings of the loop, and seeded generators."""

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


class TrainingConfig(Settings):
    """The settings of every trained method, by the names of accelerate and of diffusers' training scripts.

    Attributes:
        seed: The seed of noise, timesteps and the order of the data.
        gradient_accumulation_steps: The forward passes of one optimiser step, in each process.
        mixed_precision: The type of the forward passes; None is the option of `accelerate launch`, else "no".
        gradient_checkpointing: Whether to compute activations again in the backward pass, which takes less memory and
            more time, and changes the result by no more than rounding.
        save_freq: The number of steps between two erasers that are written beside the log; None writes none.
        validation_steps: The number of steps between two sets of sample images, which are written to the folder
            `samples` beside the log and to the tracker; None generates none.
        validation_prompt: The prompt of the sample images; {} is the concept's name.
        num_validation_images: The number of sample images of each concept, with the seeds 0, 1, 2 and so on.
        report_to: The tracker to log to, which must be installed. The losses are written to JSON lines in any case.
    """

    seed: int = Field(default=0, ge=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    gradient_checkpointing: bool = False
    save_freq: int | None = Field(default=None, ge=1)
    validation_steps: int | None = Field(default=None, ge=1)
    validation_prompt: str = "{}"
    num_validation_images: int = Field(default=4, ge=1, le=64)
    report_to: Literal["tensorboard", "trackio", "wandb"] | None = None


Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]


class Objective(ABC):
    """The interface of an objective: the trained weights, the batches and the loss.

    A *slot* is one of the batches that a step of the optimiser takes: their number is the number of processes times the
    number of accumulated batches, and the slots of one process are P apart (see `efface.methods.training.loop`).

    Attributes:
        weights: The trained weights.
        iterations: The largest number of steps.
        clip_norm: The largest norm of the gradients; None to leave them unclipped.
        keeps_gradients: Whether gradients are never set to zero, so that each step follows the sum of all of them.
        data: A digest of everything that determines the result besides the request and the settings, such as the
            content of a file.
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
        """The batch of a slot (numbered from 0) at a step. It is called without gradients, in the order of the steps.

        The result must depend on the arguments alone. Ctrl-C may interrupt the call, so the tensors of `state` must
        change last, if at all.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """The loss under the name "loss", and other values to log, all scalars.

        A prediction of the student without gradient should come after those with a gradient.
        """

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        """Whether to stop after `step` steps, given the losses of the last step, averaged over all slots."""
        return False

    def state(self) -> dict[str, Tensor]:
        """The tensors, of any shape, that batches and `finished` depend on, for the slots of this process."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        """Restore the tensors of `state` from all processes; `slots` are the slots of this process."""
        assert not tensors


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded by a hash of the numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
