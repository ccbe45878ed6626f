"""The options of `efface.Runtime`, which every command has that opens a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

_LOADING: dict[str, Any] = {
    "dtype": Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="auto, float32, bf16 or fp16: the type of the weights, also if exported.",
        ),
    ],
    "offload": Annotated[
        str,
        typer.Option(
            "--offload", metavar="WHAT", help="none, model, group or sequential: what waits in the CPU's memory."
        ),
    ],
}
_RUNNING: dict[str, Any] = {
    "quantize": Annotated[
        str,
        typer.Option("--quantize", metavar="TYPE", help="none, int8, fp8 or nf4: the type of the denoiser's weights."),
    ],
    "attention": Annotated[
        str | None, typer.Option("--attention", metavar="NAME", help="An attention backend of diffusers.")
    ],
    "compile": Annotated[bool, typer.Option("--compile", help="Compile the denoiser.")],
}
_DEFAULTS: dict[str, Any] = {"dtype": "auto", "offload": "none", "quantize": "none", "attention": None}


def with_runtime(*, generates: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options to a command, whose parameter `device` receives an `efface.Runtime` if one of them is given.

    Args:
        generates: Whether the command generates images, so that options for running the denoiser are added too.
    """
    options = _LOADING | (_RUNNING if generates else {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in options}
            chosen = {name: value for name, value in given.items() if value != _DEFAULTS.get(name, False)}
            if chosen:
                from efface.models.runtime import Runtime

                arguments["device"] = Runtime(arguments["device"] or "auto", **chosen)
            command(**arguments)

        signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name, False), annotation=kind)
            for name, kind in options.items()
        ]
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in signature.parameters.items()
        ]
        place = 1 + [parameter.name for parameter in own].index("device")
        # typer reads the options from the signature.
        vars(run)["__signature__"] = signature.replace(parameters=[*own[:place], *added, *own[place:]])
        return run

    return decorate
