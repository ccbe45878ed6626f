"""Optional arguments of the verbs: None means "not given", whatever the default."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import ParamSpec, TypeVar, cast

_P = ParamSpec("_P")
_R = TypeVar("_R")


def none_is_not_given(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a verb use its default for each optional argument that is None.

    Callers pass on values that are optional in their own programs, while the defaults of the verbs are of many kinds:
    None, an empty tuple, a number, a name.

    Args:
        verb: The function.
    """
    parameters = signature(verb).parameters
    optional = {
        name: parameter.default for name, parameter in parameters.items() if parameter.default is not Parameter.empty
    }
    positional = [name for name, parameter in parameters.items() if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]

    def value_of(name: str | None, given: object) -> object:
        return optional[name] if given is None and name in optional else given

    @wraps(verb)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        names = [*positional, *(None for _ in args[len(positional) :])]
        values = [value_of(name, given) for name, given in zip(names, args, strict=False)]
        return cast("Callable[..., _R]", verb)(
            *values, **{name: value_of(name, given) for name, given in kwargs.items()}
        )

    return call
