"""Putting an eraser on a running model and taking it off: a hook in front of the denoiser, no weight changed.

The hook edits what the denoiser is given as text (`encoder_hidden_states`), whatever made it: prompts, embeddings given
by hand, negative prompts, and both branches of guidance. Weight edits, which no hook can stand for, are written and
later restored. Guards bring hooks of their own (see `efface.guards`).
"""

from __future__ import annotations

import inspect
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.bake import Baked, write_weights
from efface.base_check import check_base
from efface.edits import TextEdit, ValueGuard, WeightEdit
from efface.guards import GUARDS, Guard
from efface.models import Model, open_model

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.eraser import Eraser


class _Hook:
    """Edits one text stream on its way into the denoiser; its factors are changed in place, never replaced."""

    def __init__(self, edit: TextEdit, denoiser: nn.Module, argument: str) -> None:
        self._full = edit.left
        # Copies of its own, in one order of memory: an eraser does the same to the last bit made and read from a file.
        self._left = edit.left.float().clone(memory_format=torch.contiguous_format)
        self._right = edit.right.float().clone(memory_format=torch.contiguous_format)
        self._argument = argument
        self._place = list(inspect.signature(denoiser.forward).parameters).index(argument)
        self.handle = denoiser.register_forward_pre_hook(self, with_kwargs=True)

    def set(self, strength: float) -> None:
        self._left.copy_(self._full * strength)

    def edit(self, text: Tensor) -> Tensor:
        if self._left.device != text.device:
            self._left, self._right = self._left.to(text.device), self._right.to(text.device)
        wide = text.float()
        return (wide + (wide @ self._right) @ self._left.T).to(text.dtype)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get(self._argument) is not None:
            return args, {**kwargs, self._argument: self.edit(kwargs[self._argument])}
        if len(args) > self._place and args[self._place] is not None:
            return (*args[: self._place], self.edit(args[self._place]), *args[self._place + 1 :]), kwargs
        return args, kwargs


class Attachment:
    """An eraser on a model. Leave the context, or call `detach`, and the model is as it was."""

    def __init__(self, eraser: Eraser, model: Model, strength: float) -> None:
        self._model = model
        self._denoiser: nn.Module = model.denoiser
        self._hooks: list[_Hook] = []
        self._weights = [edit for edit in eraser.edits if isinstance(edit, WeightEdit)]
        self._guards: list[Guard] = []
        self._written = Baked()
        try:
            for edit in eraser.edits:
                if isinstance(edit, ValueGuard):
                    self._guards.append(GUARDS.get(edit.guard)(edit, self._denoiser))
            # Hooks run in the order they were made in: guards read the text as it comes, and what they add is edited.
            self._hooks += [
                _Hook(edit, self._denoiser, model.streams[edit.stream])
                for edit in eraser.edits
                if isinstance(edit, TextEdit)
            ]
            self.set(strength)
        except BaseException:
            self.detach()
            raise

    def set(self, strength: float) -> None:
        """Go `strength` times as far as was solved for: 0 changes nothing, 1 is the whole edit."""
        self.strength = strength
        for hook in self._hooks:
            hook.set(strength)
        for guard in self._guards:
            guard.set(strength)
        self._written.undo()
        write_weights(self._written, self._model, self._weights, strength)
        _forget_text(self._denoiser)

    def detach(self) -> None:
        """Take the eraser off; a second call does nothing."""
        for hook in self._hooks:
            hook.handle.remove()
        for guard in self._guards:
            guard.detach()
        self._written.undo()
        _forget_text(self._denoiser)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(eraser: Eraser, target: Model | DiffusionPipeline, strength: float = 1.0, force: bool = False) -> Attachment:
    """Put `eraser` on `target`, after checking that it fits."""
    model = target if isinstance(target, Model) else open_model(target)
    check_base(eraser, model, force)
    if getattr(model.denoiser, "encoder_hid_proj", None) is not None:
        warnings.warn("An IP-Adapter is loaded: the eraser edits the text, not the tokens of its image.", stacklevel=3)
    edited = {edit.stream for edit in eraser.edits if isinstance(edit, TextEdit)}
    missed = [argument for stream, argument in model.streams.items() if stream not in edited]
    for way in [*missed, *model.unedited] if edited else []:
        warnings.warn(f"{model.name} reads the text by {way} too, which the eraser does not edit.", stacklevel=3)
    if getattr(target, "controlnet", None) is not None:
        warnings.warn("The ControlNet reads the text as it is: the eraser edits only the denoiser's.", stacklevel=3)
    return Attachment(eraser, model, strength)


def _forget_text(denoiser: nn.Module) -> None:
    """Drop diffusers' cache of the text's keys and values, where there is one."""
    hooks: Any = getattr(denoiser, "_diffusers_hook", None)
    if hooks is not None:
        hooks.reset_stateful_hooks(recurse=True)
