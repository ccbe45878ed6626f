"""The hook in front of a denoiser that edits the text that it receives.

It runs as plain Python before the compiled part, so no compiled graph contains it: erasers of any rank can be attached,
changed and detached without a recompilation.

Shapes: B rows of a batch, T tokens, d text width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from efface.apply.prompt_rows import prompt_of_row
from efface.edits.kinds import TextEdit
from efface.errors import BadInput
from efface.models.modules import plain

_KV_CACHE = "text_kv_cache_transformer"


class _Operator:
    """A text edit at some strength, in float32 on the device of the text."""

    def __init__(self, edit: TextEdit) -> None:
        self._edit = edit
        self._left, self._right = edit.factors_float32

    def set(self, strength: float) -> None:
        if strength == 1:
            self._left = self._edit.factors_float32[0]
        else:
            self._left = torch.empty(self._edit.left.shape).copy_(self._edit.left * strength)

    def __call__(self, text: Tensor) -> Tensor:
        if self._left.device != text.device or self._right.device != text.device:
            self._left, self._right = self._left.to(text.device), self._right.to(text.device)
        values = text.float()
        return (values + (values @ self._right) @ self._left.T).to(text.dtype)


@cache
def _exclude_from_graphs() -> None:
    """Exclude the hook from compiled graphs: a decorator would load torch's compiler together with this module."""
    call: Any = torch.compiler.disable(TextHook.__call__)
    TextHook.__call__ = call


class TextHook:
    """Edits the text of a denoiser until it is removed.

    Args:
        denoiser: The denoiser, or the linear map in it whose input is the text.
        streams: Its argument for each of the text streams; the first holds the prompts' tokens, (B, T, d).
        prompts: For each prompt of a batch, the edits of its rows in the order of application; one entry serves all
            rows.
        images: The number of images generated from each prompt; None derives it from the batch.
        guided: Returns whether guidance is on, None if unknown; called only for batches that are ambiguous.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        streams: Mapping[str, str],
        prompts: Sequence[Sequence[TextEdit]],
        images: int | None = None,
        guided: Callable[[], bool | None] = lambda: None,
    ) -> None:
        self._denoiser = denoiser
        self._text = next(iter(streams.values()))
        self._names = list(inspect.signature(plain(denoiser).forward).parameters)
        operators: dict[int, _Operator] = {}
        self._prompts: list[dict[str, list[_Operator]]] = []
        for edits in prompts:
            by_argument: dict[str, list[_Operator]] = {}
            for edit in edits:
                if id(edit) not in operators:
                    operators[id(edit)] = _Operator(edit)
                by_argument.setdefault(streams[edit.stream], []).append(operators[id(edit)])
            self._prompts.append(by_argument)
        self._operators = list(operators.values())
        self._same = all(edits == self._prompts[0] for edits in self._prompts)
        self._images, self._guided = images, guided
        self._cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        _exclude_from_graphs()
        # A hook may be any callable; torch's types name functions of its own module type only.
        hook: Any = self
        self._handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)

    def set(self, strength: float) -> None:
        """Change the strength: 0 changes nothing, 1 applies the edits as they were solved."""
        for operator in self._operators:
            operator.set(strength)
        self._cache.clear()

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self._handle.remove()
        self._prompts, self._same = [{}], True  # a graph compiled in the meantime still calls it

    def __reduce__(self) -> NoReturn:
        # A copy could not be detached, and nothing would record that it is edited.
        raise BadInput("A model with an attached eraser cannot be copied or pickled; detach the eraser first.")

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if not isinstance(given.get(self._text), Tensor):
            return args, kwargs
        rows = None if self._same else self._prompt_of_row(given)
        edited = {
            name: self._cached_or_edited(name, value, rows)
            for name, value in given.items()
            if isinstance(value, Tensor) and any(name in edits for edits in self._prompts)
        }
        return (
            tuple(edited.get(name, value) for name, value in zip(self._names, args, strict=False)),
            {name: edited.get(name, value) for name, value in kwargs.items()},
        )

    def _prompt_of_row(self, given: dict[str, Any]) -> Tensor:
        # A linear map has no argument for the latents.
        sample: Tensor | None = None if self._names[0] == self._text else given[self._names[0]]
        return prompt_of_row(len(self._prompts), sample, given[self._text], self._images, self._guided())

    def _cached_or_edited(self, name: str, value: Tensor, rows: Tensor | None) -> Tensor:
        if not _caches_text(self._denoiser):
            return self._edited(name, value, rows)
        # diffusers identifies a text by its address in memory: the edited text must keep its address as long as the
        # original text exists.
        if value not in self._cache:
            self._cache[value] = self._edited(name, value, rows)
        return self._cache[value]

    def _edited(self, name: str, value: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            for operator in self._prompts[0].get(name, ()):
                value = operator(value)
            return value
        value = value.clone()
        for prompt, edits in enumerate(self._prompts):
            of_prompt = (rows == prompt).nonzero().flatten().to(value.device)
            for operator in edits.get(name, ()):
                value[of_prompt] = operator(value[of_prompt])
        return value


def _caches_text(denoiser: Any) -> bool:
    hooks: Any = getattr(denoiser, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook(_KV_CACHE) is not None


def forget_text(denoiser: Any) -> None:
    """Clear diffusers' cache of the text's keys and values, if the denoiser has one."""
    hooks: Any = getattr(denoiser, "_diffusers_hook", None)
    if hooks is not None:
        hooks.reset_stateful_hooks(recurse=True)
