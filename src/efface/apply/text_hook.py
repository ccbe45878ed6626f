"""The hook in front of a denoiser that edits the text on its way in.

It runs before whatever is compiled, as plain Python, so no compiled graph knows of it: erasers of any rank come, change
and go without a recompilation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from efface.apply.prompt_rows import owners
from efface.edits.kinds import TextEdit
from efface.models.modules import plain

_KV_CACHE = "text_kv_cache_transformer"


class _Operator:
    """A text edit at some strength, in float32 and where the text is."""

    def __init__(self, edit: TextEdit) -> None:
        self._edit = edit
        # Copies in one order of memory: an eraser does the same to the last bit made and read from a file.
        self._left, self._right = edit.narrow

    def set(self, strength: float) -> None:
        if strength == 1:
            self._left = self._edit.narrow[0]
        else:
            self._left = torch.empty(self._edit.left.shape).copy_(self._edit.left * strength)

    def __call__(self, text: Tensor) -> Tensor:
        if self._left.device != text.device or self._right.device != text.device:
            self._left, self._right = self._left.to(text.device), self._right.to(text.device)
        wide = text.float()
        return (wide + (wide @ self._right) @ self._left.T).to(text.dtype)


class TextHook:
    """Edits a denoiser's text from when it is made until it is removed.

    Args:
        denoiser: what reads the text.
        streams: the denoiser's argument for each of its text streams; the first has the prompts' tokens.
        prompts: for each prompt of a batch the edits of its rows, one after the other; one entry serves all rows.
        images: how many images each prompt has; None finds it out from the batch.
        guided: tells whether guidance is on; asked where a batch leaves it open.
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
        made: dict[int, _Operator] = {}
        self._prompts: list[dict[str, list[_Operator]]] = []
        for edits in prompts:
            by_argument: dict[str, list[_Operator]] = {}
            for edit in edits:
                if id(edit) not in made:
                    made[id(edit)] = _Operator(edit)
                by_argument.setdefault(streams[edit.stream], []).append(made[id(edit)])
            self._prompts.append(by_argument)
        self._operators = list(made.values())
        self._same = all(edits == self._prompts[0] for edits in self._prompts)
        self._images, self._guided = images, guided
        self._kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        # A hook may be any callable; torch's types name functions of its own module type only.
        hook: Any = self
        self._handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)

    def set(self, strength: float) -> None:
        """Go `strength` times as far."""
        for operator in self._operators:
            operator.set(strength)
        self._kept.clear()

    def remove(self) -> None:
        """Take it off; a second call does nothing."""
        self._handle.remove()

    @torch.compiler.disable
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if not isinstance(given.get(self._text), Tensor):
            return args, kwargs
        rows = None if self._same else self._owners(given)
        edited = {
            name: self._kept_or_edited(name, value, rows)
            for name, value in given.items()
            if isinstance(value, Tensor) and any(name in edits for edits in self._prompts)
        }
        return (
            tuple(edited.get(name, value) for name, value in zip(self._names, args, strict=False)),
            {name: edited.get(name, value) for name, value in kwargs.items()},
        )

    def _owners(self, given: dict[str, Any]) -> Tensor:
        sample: Tensor = given[self._names[0]]
        return owners(len(self._prompts), sample, given[self._text], self._images, self._guided())

    def _kept_or_edited(self, name: str, value: Tensor, rows: Tensor | None) -> Tensor:
        if not _caches_text(self._denoiser):
            return self._edited(name, value, rows)
        # diffusers knows a text by where it lies in memory: while it lives, what it became must not move either.
        if value not in self._kept:
            self._kept[value] = self._edited(name, value, rows)
        return self._kept[value]

    def _edited(self, name: str, value: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            for operator in self._prompts[0].get(name, ()):
                value = operator(value)
            return value
        value = value.clone()
        for prompt, edits in enumerate(self._prompts):
            mine = (rows == prompt).nonzero().flatten().to(value.device)
            for operator in edits.get(name, ()):
                value[mine] = operator(value[mine])
        return value


def _caches_text(denoiser: Any) -> bool:
    hooks: Any = getattr(denoiser, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook(_KV_CACHE) is not None


def forget_text(denoiser: Any) -> None:
    """Drop diffusers' cache of the text's keys and values, where there is one."""
    hooks: Any = getattr(denoiser, "_diffusers_hook", None)
    if hooks is not None:
        hooks.reset_stateful_hooks(recurse=True)
