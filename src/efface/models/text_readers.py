"""Which maps read the text, found by watching a denoiser read it.

Where nothing but linear maps W read the text, an edit of the text is an edit of them, W (I + L R^T), and can be baked
or exported. Anything else that reads it, a norm or a mean, an edit can only come before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from efface.errors import BadInput

# What hands the text on as it is, token by token.
_CARRIES = frozenset({
    "to", "type", "float", "half", "bfloat16", "contiguous", "clone", "detach", "view", "reshape", "flatten",
    "unsqueeze", "squeeze", "expand", "repeat", "repeat_interleave", "chunk", "split", "__getitem__",
})  # fmt: skip
_SIDE = 64  # pixels: the smallest picture that all pipelines make


class _Enough(Exception):  # noqa: N818 - not an error: all was seen
    pass


class _Watch(TorchFunctionMode):
    """Sees every function of torch that is given the text, until the maps that read it."""

    def __init__(self, text: Tensor) -> None:
        super().__init__()
        self._text, self._width = [text], text.shape[-1]
        self.readers: list[Tensor] = []
        self.others: list[str] = []
        self.elsewhere: list[Tensor] = []  # weights that also map what is no text

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = _tensors((args, kwargs or {}))
        name = getattr(func, "__name__", str(func))
        reads = any(self._is_text(tensor) for tensor in given)
        if name == "linear" and len(given) > 1:
            (self.readers if reads else self.elsewhere).append(given[1])
        elif reads and (made := _tensors(result)):
            if name in _CARRIES and all(tensor.shape[-1:] == (self._width,) for tensor in made):
                self._text += made
            else:
                self.others.append(name)
        return result

    def _is_text(self, tensor: Tensor) -> bool:
        return any(tensor is text for text in self._text)


def read_by(pipeline: Any, denoiser: nn.Module, argument: str) -> tuple[str, ...]:
    """Names of the weights of the linear maps that read the text; the pipeline runs one step for it.

    Raises:
        BadInput: something else reads it; the message says what.
    """
    watches: list[_Watch] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {**dict(zip(signature(denoiser.forward).parameters, args, strict=False)), **kwargs}
        watches.append(_Watch(named[argument]))
        watches[-1].__enter__()

    def after(module: nn.Module, args: Any, output: Any) -> None:
        watches[-1].__exit__(None, None, None)
        raise _Enough

    handles = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.register_forward_hook(after),
    ]
    kind = type(pipeline).__name__
    try:
        with silenced(pipeline):
            pipeline(**_smallest(pipeline.__call__))
    except _Enough:
        pass
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise BadInput(f"How a {kind} reads its text cannot be told: it does not run one step ({reason}).") from error
    finally:
        for handle in handles:
            handle.remove()
    (watch,) = watches
    if watch.others:
        raise BadInput(
            f"The text of a {kind} is read by '{watch.others[0]}', which is no linear map, so that no change of "
            "weights is a change of the text; attach the eraser instead."
        )
    names = {id(parameter): name for name, parameter in denoiser.named_parameters()}
    found = [names.get(id(weight)) for weight in watch.readers]
    if not found or None in found or any(weight is other for weight in watch.readers for other in watch.elsewhere):
        raise BadInput(f"The maps that read the text of a {kind} are not its alone; attach the eraser instead.")
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _smallest(call: Callable[..., Any]) -> dict[str, Any]:
    """Arguments for as little work as one step can be."""
    wanted: dict[str, Any] = {
        "prompt": "a", "num_inference_steps": 1, "height": _SIDE, "width": _SIDE, "num_frames": 1,
        "output_type": "latent", "use_resolution_binning": False,
    }  # fmt: skip
    return {name: value for name, value in wanted.items() if name in signature(call).parameters}


@contextmanager
def silenced(pipeline: Any) -> Generator[None, None, None]:
    """Without the pipeline's own progress bar."""
    shown = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**shown)


def _tensors(value: Any) -> list[Tensor]:
    return list(_walk(value))


def _walk(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from _walk(item)
    elif isinstance(value, (list, tuple)):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _walk(item)
