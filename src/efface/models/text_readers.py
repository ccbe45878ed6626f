"""Find the maps that read the text, by tracing one call of a denoiser.

If only linear maps W read the text, an edit of the text is an edit of these maps, W (I + L R^T), and can be baked or
exported. If another operation reads it, such as a norm or a mean, the edit can only be applied before that operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from efface.errors import BadInput
from efface.models.modules import plain
from efface.models.pretrained import no_progress_bar
from efface.models.text.tokens import padded

# Operations that pass each token on unchanged.
_PASSES_ON = frozenset({
    "to", "type", "float", "half", "bfloat16", "contiguous", "clone", "detach", "view", "reshape", "flatten",
    "type_as", "unsqueeze", "squeeze", "expand", "repeat", "repeat_interleave", "chunk", "split", "__getitem__",
})  # fmt: skip
_JOINS = ("cat", "concat", "concatenate")
_SIDE = 64  # pixels: the smallest image that all pipelines can make


class _Traced(Exception):  # noqa: N818 - not an error: the trace is complete
    pass


def received_text(pipeline: Any, denoiser: nn.Module, argument: str, prompt: str) -> Tensor | None:
    """The text (rows, T, d) of a prompt that the denoiser receives in its first call; the denoiser does not run.

    Args:
        pipeline: The pipeline.
        denoiser: Its denoiser.
        argument: Name of the denoiser's argument that is the text.
        prompt: The prompt, which is the negative prompt too.

    Returns:
        The text, or None if the pipeline needs more than a prompt to run.
    """
    received: list[Any] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        received.append(_arguments(denoiser, args, kwargs).get(argument))
        raise _Traced

    handle = denoiser.register_forward_pre_hook(before, with_kwargs=True)
    options = _smallest(pipeline.__call__)
    texts = {name: prompt for name in ("prompt", "negative_prompt") if name in signature(pipeline.__call__).parameters}
    try:
        with torch.no_grad(), no_progress_bar(pipeline):
            pipeline(**{**options, **texts})
    except Exception:  # a pipeline that lacks an input can fail in any way; _Traced is expected
        pass
    finally:
        handle.remove()
    texts = received[0] if received else None
    return padded(texts)[0] if isinstance(texts, (Tensor, list)) and len(texts) else None


class _Trace(TorchFunctionMode):
    """Follows the text through torch functions up to the maps that read it."""

    def __init__(self, text: Tensor) -> None:
        super().__init__()
        self._text, self._width = [text], text.shape[-1]
        self.readers: list[Tensor] = []
        self.others: list[str] = []
        self.elsewhere: list[Tensor] = []  # weights that are also applied to other inputs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs or {}))
        name = getattr(func, "__name__", str(func))
        # The other tensor of `type_as` is read for its type only.
        reads = any(self._is_text(tensor) for tensor in (inputs[:1] if name == "type_as" else inputs))
        if name == "linear" and len(inputs) > 1:
            (self.readers if reads else self.elsewhere).append(inputs[1])
        elif reads and (outputs := _tensors(result)):
            if name in _PASSES_ON and all(tensor.shape[-1:] == (self._width,) for tensor in outputs):
                self._text += outputs
            else:
                self.others.append(name)
        return result

    def _is_text(self, tensor: Tensor) -> bool:
        return any(tensor is text for text in self._text)


def find_text_readers(pipeline: Any, denoiser: nn.Module, argument: str) -> tuple[str, ...]:
    """Names of the weights of the linear maps that read the text; the pipeline runs one step.

    Args:
        pipeline: The pipeline.
        denoiser: Its denoiser.
        argument: Name of the denoiser's argument that is the text.

    Raises:
        BadInput: Another operation reads the text too; the message names it.
    """
    traces: list[_Trace] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        traces.append(_Trace(_arguments(denoiser, args, kwargs)[argument]))
        traces[-1].__enter__()

    def after(module: nn.Module, args: Any, output: Any) -> None:
        traces[-1].__exit__(None, None, None)
        if output is not None:  # None if the call failed
            raise _Traced

    handles = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.register_forward_hook(after, always_call=True),
    ]
    kind = type(pipeline).__name__
    try:
        with no_progress_bar(pipeline):
            _run_one_step(pipeline, denoiser)
    except _Traced:
        pass
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise BadInput(f"Cannot find out how a {kind} reads its text: it fails to run one step ({reason}).") from error
    finally:
        for handle in handles:
            handle.remove()
    trace = traces[-1]
    if trace.others and trace.others[0] in _JOINS:
        raise BadInput(
            f"A {kind} joins the text with another input by '{trace.others[0]}' before linear maps read both, so that "
            "a change of weights would change the other input too; attach the eraser instead."
        )
    if trace.others:
        raise BadInput(
            f"The text of a {kind} is read by '{trace.others[0]}', which is not a linear map, so that no change of "
            "weights equals a change of the text; attach the eraser instead."
        )
    names = {id(parameter): name for name, parameter in denoiser.named_parameters()}
    readers = [names.get(id(weight)) for weight in trace.readers]
    if not readers or None in readers or any(weight is other for weight in trace.readers for other in trace.elsewhere):
        raise BadInput(f"The maps that read the text of a {kind} read other inputs too; attach the eraser instead.")
    return tuple(dict.fromkeys(name for name in readers if name is not None))


def _run_one_step(pipeline: Any, denoiser: nn.Module) -> None:
    """Run a pipeline for an image of the least size, or of its transformer's own size if it makes no other."""
    smallest = _smallest(pipeline.__call__)
    latents: Any = getattr(getattr(plain(denoiser), "config", None), "sample_size", None)
    try:
        pipeline(**smallest)
    except _Traced:
        raise
    except Exception:
        if not isinstance(latents, int) or not isinstance(getattr(pipeline, "vae_scale_factor", None), int):
            raise
        side = latents * pipeline.vae_scale_factor
        pipeline(**smallest | {name: side for name in ("height", "width") if name in smallest})


def _arguments(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(signature(plain(denoiser).forward).parameters, args, strict=False)), **kwargs}


def _smallest(call: Callable[..., Any]) -> dict[str, Any]:
    """Arguments for the least possible work."""
    options: dict[str, Any] = {
        "prompt": "a", "num_inference_steps": 1, "height": _SIDE, "width": _SIDE, "num_frames": 1,
        "output_type": "latent", "use_resolution_binning": False,
    }  # fmt: skip
    return {name: value for name, value in options.items() if name in signature(call).parameters}


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
