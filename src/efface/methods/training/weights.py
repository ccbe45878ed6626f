"""Student and teacher in one network.

The denoiser with the base's weights is the teacher. The student is the same denoiser, called with the trained tensors
in place of its own, or with adapters beside its layers (`efface.models.parameters`). So there is no second network in
memory, no weights have to be swapped, and an interrupted training leaves the model unchanged.

Shapes: b samples, C latent channels, h and w latent size, R rows of text, d text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface.edits.kinds import WeightEdit
from efface.errors import BadInput
from efface.models.denoising import Conditions
from efface.models.parameters import Parameters
from efface.models.placement import check_differentiable
from efface.models.runtime import is_group_offloaded

if TYPE_CHECKING:
    from efface.models import Model


class Weights(nn.Module, ABC):
    """The trained tensors as parameters of a module, which returns what the denoiser is called with."""

    @abstractmethod
    def forward(self) -> Parameters:
        """What differs between the student and the teacher: tensors in the denoiser's type, or adapters."""

    @abstractmethod
    def edits(self) -> tuple[WeightEdit, ...]:
        """The edits of the eraser: the change from the base."""

    def owners(self) -> tuple[int, ...] | None:
        """The position of the concept of each edit, for concepts trained together; None if an edit has several."""
        return None


class Copies(Weights):
    """Parameters of the denoiser, of any shape, each trained as a float32 copy.

    Args:
        denoiser: The denoiser.
        names: The names of the parameters.
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
        """The change of each parameter, of any shape, in the order of `names`."""
        return tuple(tensor - base for tensor, base in zip(self.tensors, self._base, strict=True))

    @torch.no_grad()
    def add(self, edits: Sequence[WeightEdit]) -> list[str]:
        """Add changes to the trained copies, and return the names of the parameters that are not trained."""
        tensors = {f"denoiser.{name}": tensor for name, tensor in zip(self.names, self.tensors, strict=True)}
        for edit in edits:
            if (tensor := tensors.get(edit.parameter)) is not None:
                tensor.add_(edit.value(tensor.shape).to(tensor))
        return [edit.parameter for edit in edits if edit.parameter not in tensors]

    @torch.no_grad()
    def edits(self) -> tuple[WeightEdit, ...]:
        return tuple(
            WeightEdit(f"denoiser.{name}", delta=change.cpu().contiguous())
            for name, change in zip(self.names, self.changes(), strict=True)
        )


class Networks:
    """The denoiser with and without the trained weights.

    Args:
        model: The model with the denoiser.
        weights: The trained weights.
    """

    def __init__(self, model: Model, weights: Weights) -> None:
        self._model, self._weights = model, weights

    def student(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The prediction of the edited denoiser.

        Args:
            x: The noisy latents, (b, C, h, w).
            t: The timesteps, (b,).
            text: The text embeddings, (b, R, d).

        Returns:
            The prediction, (b, C, h, w), float32.
        """
        prediction = self._model.predict(x, t, Conditions(text), self._weights())
        if not torch.is_grad_enabled():
            # Autocast caches its casts of trained weights. Casts without a gradient must not serve later calls.
            torch.clear_autocast_cache()
        return prediction

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The prediction of the base.

        Args:
            x: The noisy latents, (b, C, h, w).
            t: The timesteps, (b,).
            text: The text embeddings, (b, R, d).

        Returns:
            The prediction, (b, C, h, w), float32.
        """
        return self._model.predict(x, t, Conditions(text))


_OFFLOADED = "A model that is offloaded cannot be trained; leave --offload out."


def check_options(model: Model) -> None:
    """Check that the loop can train a model, as far as is known without its denoiser.

    Raises:
        BadInput: The denoiser cannot be trained, or the model's options do not allow it.
    """
    if reason := model.untrainable:
        raise BadInput(f"{model.name} {reason}.")
    if model.runtime.offload != "none":
        raise BadInput(_OFFLOADED)
    if model.runtime.quantize != "none" or model.runtime.compile:
        raise BadInput("A model that is quantised or compiled cannot be trained; leave --quantize and --compile out.")


def check_trainable(model: Model) -> None:
    """Check that the loop can train a model.

    Raises:
        BadInput: The denoiser cannot be trained, its weights are offloaded or quantised, or the model is in float16.
    """
    check_options(model)
    if is_group_offloaded(model.denoiser):
        # Recomputed or reordered layers would find weights on the other device, and gradients would be wrong.
        raise BadInput(_OFFLOADED)
    check_differentiable("the denoiser", model.denoiser)
    if model.dtype == torch.float16:
        raise BadInput("Gradients vanish in a float16 model; open it in float32 and set mixed_precision=fp16 instead.")


@contextmanager
def frozen(network: nn.Module) -> Generator[None, None, None]:
    """A context in which the network has no dropout and its own weights have no gradient."""
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
