"""The text of a prompt as a loaded pipeline of diffusers computes it, and where a token of it comes from.

A pipeline may select, cut, join or pad the outputs of its text encoders. Whether a token of the text is the output for
a token of the prompt is tested by a change of that output: exactly this token of the text must change.

Shapes: n prompts, L tokens of the text encoder, T tokens of the text, d width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.models.pretrained import from_diffusers
from efface.models.text.tokens import padded

_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_NOTICEABLE = 1e-3  # relative change of a token above rounding

_ROUNDING = 3e-2  # relative, of a text that is cast to half precision


def encoding_options(pipeline: Any) -> dict[str, Any]:
    """Arguments of a pipeline's `encode_prompt` besides the prompt, with the defaults of the pipeline's call.

    Raises:
        BadInput: The pipeline has no method that encodes a prompt.
    """
    call = inspect.signature(pipeline.__call__).parameters
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(_method(pipeline)).parameters.items():
        default = call[name].default if name in call else parameter.default
        if name != "prompt" and parameter.kind not in _COLLECTING:
            options[name] = None if default is inspect.Parameter.empty else default
    fixed = {"num_images_per_prompt": 1, "num_videos_per_prompt": 1, "do_classifier_free_guidance": False}
    fixed["device"] = pipeline._execution_device
    return options | {name: value for name, value in fixed.items() if name in options}


def is_encoded_by(pipeline: Any, kind: str) -> bool:
    """Whether a pipeline has the `encode_prompt` of a class of diffusers."""
    method = getattr(type(pipeline), "encode_prompt", None)
    return method is not None and method is getattr(from_diffusers(kind), "encode_prompt", None)


def encode_by_pipeline(pipeline: Any, prompts: list[str], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The outputs of the pipeline's own encoding of n prompts.

    Args:
        pipeline: A pipeline of diffusers.
        prompts: The prompts.
        options: The other arguments of its method; see `encoding_options`.

    Raises:
        BadInput: The pipeline cannot encode a prompt on its own, without an image for example.
    """
    try:
        output: Any = _method(pipeline)(prompt=prompts, **options)
    except Exception as error:  # a pipeline that lacks an input or a library can fail in any way
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        kind = type(pipeline).__name__
        raise BadInput(f"A {kind} does not encode a prompt without further inputs ({reason[:200]}).") from error
    return cast("tuple[Any, ...]", output) if isinstance(output, tuple) else (output,)


def text_of(outputs: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    """The tokens (n, T, d) among the outputs of an encoding, and the mask (n, T) of those that are read, if any.

    Raises:
        BadInput: The first output is no sequence of tokens.
    """
    first = outputs[0]
    is_list = (
        isinstance(first, list) and bool(first) and all(isinstance(row, Tensor) for row in cast("list[Any]", first))
    )
    if not (isinstance(first, Tensor) and first.ndim == 3) and not is_list:
        raise BadInput("The pipeline's encode_prompt returns no sequence of tokens, so efface cannot edit its text.")
    tokens, mask = padded(first)
    if mask is None:
        mask = next((out.bool().cpu() for out in outputs[1:] if _is_mask(out, tokens)), None)
    return tokens, mask


def has_output(outputs: tuple[Any, ...], expected: Tensor) -> bool:
    """Whether an encoding has this output, of any shape, up to rounding."""
    return any(isinstance(out, Tensor) and _equal(out.float().cpu().flatten(1), expected.flatten(1)) for out in outputs)


def contains_token(text: Tensor, token: Tensor) -> bool:
    """Whether a token (d,) is one of a text (..., d), up to the rounding of half precision."""
    if text.shape[-1] != len(token):
        return False
    distances = (text.float().cpu() - token.float().cpu()).norm(dim=-1)
    return float(distances.min()) <= _ROUNDING * float(token.float().norm())


def moved_tokens(
    tokens: Tensor, encode: Callable[[], Tensor], encoder: nn.Module, positions: Tensor | None
) -> list[list[int]]:
    """The tokens of the text that change with the output of a text encoder, for each prompt.

    Args:
        tokens: The text of n prompts, (n, T, d).
        encode: Encodes the prompts again, (n, T, d).
        encoder: The text encoder.
        positions: The position of the changed output in each row of the encoder's input, (n,); None changes all.
    """
    with _changed_output(encoder, positions):
        after = encode()
    if after.shape != tokens.shape:
        return [[] for _ in tokens]
    change = (after.float() - tokens.float()).abs().amax(dim=-1)
    noticeable = change > _NOTICEABLE * tokens.float().abs().amax()
    return [row.nonzero().flatten().tolist() for row in noticeable]


def _method(pipeline: Any) -> Callable[..., Any]:
    # Old pipelines have only the private one.
    method = getattr(pipeline, "encode_prompt", None) or getattr(pipeline, "_encode_prompt", None)
    if method is None or "prompt" not in inspect.signature(method).parameters:
        kind = type(pipeline).__name__
        raise BadInput(f"A {kind} has no encode_prompt for a prompt, so efface cannot find out how it reads text.")
    return method


def _is_mask(value: Any, tokens: Tensor) -> bool:
    """Whether a tensor is a mask of the tokens. A pooled embedding may have as many numbers as there are tokens."""
    if not isinstance(value, Tensor) or value.shape != tokens.shape[:2]:
        return False
    return bool(((value == 0) | (value == 1)).all()) and bool(value.any(dim=1).all())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).norm()) <= _NOTICEABLE * float(other.norm())


@contextmanager
def _changed_output(encoder: nn.Module, positions: Tensor | None) -> Generator[None, None, None]:
    done = 0  # rows of the calls so far, which may be one for each prompt

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal done
        changed = _changed(output, None if positions is None else positions[done:])
        done += _rows(output)
        return changed

    handle = encoder.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _rows(output: Any) -> int:
    first = next(iter(output.values() if isinstance(output, Mapping) else output))  # pyright: ignore
    return len(cast("Tensor", first))


def _changed(value: Any, positions: Tensor | None) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return type(value)(**{name: _changed(item, positions) for name, item in items})
    if type(value) in (list, tuple):
        return type(value)(_changed(item, positions) for item in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if positions is None:
        return value + _difference(value)
    if value.ndim != 3 or len(value) > len(positions):
        return value
    value = value.clone()
    value[torch.arange(len(value)), positions[: len(value)].to(value.device)] += _difference(value)
    return value


def _difference(value: Tensor) -> Tensor:
    """A change (d,) of the size of the values, which no norm removes."""
    size = float(value.detach().float().abs().max()) or 1.0
    return (size * torch.linspace(-1, 1, value.shape[-1])).to(value)
