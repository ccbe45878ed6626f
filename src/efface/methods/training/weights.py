"""Student and teacher in one network.

The denoiser keeps the base's weights and is the teacher as it is. The student is the same denoiser called with other
tensors in the place of those that are trained (`torch.func.functional_call`): there is no second network in memory,
nothing to swap, and nothing to put back when a training is interrupted.

Shapes: b samples, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.edits.kinds import WeightEdit
from efface.errors import BadInput
from efface.models.denoising import Conditions

if TYPE_CHECKING:
    from efface.models import Model


class Weights(nn.Module, ABC):
    """What is trained, as its own parameters; calling it gives the edited parameters of the denoiser by name."""

    @abstractmethod
    def forward(self) -> dict[str, Tensor]:
        """The student's parameters, where they are not the teacher's, in the denoiser's type."""

    @abstractmethod
    def edits(self) -> tuple[WeightEdit, ...]:
        """The change from the base, as an eraser has it."""

    def owners(self) -> tuple[int, ...] | None:
        """Of concepts trained together, which one each edit is of; None where they cannot be told apart."""
        return None


class Copies(Weights):
    """Whole parameters, each trained as a float32 copy of the base's.

    Args:
        denoiser: Of which parameters are trained.
        names: Which.
    """

    def __init__(self, denoiser: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self._base = [denoiser.get_parameter(name).detach() for name in self.names]
        self.tensors = nn.ParameterList(nn.Parameter(base.float().clone()) for base in self._base)

    def forward(self) -> dict[str, Tensor]:
        return {
            name: tensor.to(base.dtype) for name, tensor, base in zip(self.names, self.tensors, self._base, strict=True)
        }

    def changes(self) -> tuple[Tensor, ...]:
        """Each parameter's difference from the base, in the order of `names`."""
        return tuple(tensor - base for tensor, base in zip(self.tensors, self._base, strict=True))

    @torch.no_grad()
    def edits(self) -> tuple[WeightEdit, ...]:
        return tuple(
            WeightEdit(f"denoiser.{name}", delta=change.cpu().contiguous())
            for name, change in zip(self.names, self.changes(), strict=True)
        )


class Networks:
    """The denoiser with and without what is trained.

    Args:
        model: Has the denoiser.
        weights: What is trained.
    """

    def __init__(self, model: Model, weights: Weights) -> None:
        self._model, self._weights = model, weights

    def student(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The edited denoiser's prediction, (b, C, h, w) in float32, of x of that shape, t (b,), text (b, T, d)."""
        prediction = self._model.predict(x, t, Conditions(text), self._weights())
        if not torch.is_grad_enabled():
            # Autocast keeps its casts of trained weights: made here, they would carry no gradient into later calls.
            torch.clear_autocast_cache()
        return prediction

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The base's prediction; arguments as for `student`."""
        return self._model.predict(x, t, Conditions(text))


def check_trainable(model: Model) -> None:
    """Refuse a model that the loop cannot train.

    Raises:
        BadInput: The denoiser cannot be trained, or the model is in float16.
    """
    if reason := model.untrainable:
        raise BadInput(f"{model.name} {reason}.")
    if model.dtype == torch.float16:
        raise BadInput("Gradients vanish in a float16 model; open it in float32 and set mixed_precision=fp16 instead.")


@contextmanager
def frozen(network: nn.Module) -> Generator[None, None, None]:
    """The network without dropout, and with no gradient for weights of its own, until the block is left."""
    modes = {module: module.training for module in network.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, needs in wanted.items():
            parameter.requires_grad_(needs)
