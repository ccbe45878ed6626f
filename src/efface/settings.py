"""The base class of validated records: frozen, without unknown keys, and with one-sentence errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from efface.errors import BadRequest

Scalar = bool | int | float | str


class Settings(BaseModel):
    """A frozen, validated record.

    Raises:
        BadRequest: A value is not valid; the message is one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadRequest(_sentence(type(self), error)) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate a mapping, as pydantic does.

        Raises:
            BadRequest: A value is not valid; the message is one sentence.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise BadRequest(_sentence(cls, error)) from None


def _sentence(record: type[BaseModel], error: ValidationError) -> str:
    """The first error as a sentence that names the field. Values that are not plain are never repeated."""
    errors = error.errors()
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _TYPES)
    if first["type"] == "extra_forbidden":
        return f"Unknown option '{where}'; known are: {', '.join(record.model_fields)}."
    if first["type"] == "missing":
        return f"'{where}' is missing; known are: {', '.join(record.model_fields)}."
    context: dict[str, Any] = first.get("ctx", {})
    if isinstance(cause := context.get("error"), ValueError):
        return str(cause)
    # A value that may have several types has an error for each of them.
    rule = _ANY_SCALAR if first["loc"][-1] in _TYPES and len(errors) > 1 else _RULES.get(first["type"], "")
    return f"'{where}' is {_shown(first['input'])}; it must be {rule.format(**context) or _plain(first['msg'])}."


#: The last part of the place of an error in a value that may have several types.
_TYPES = ("bool", "int", "float", "str")
_ANY_SCALAR = "true, false, a number or a text"
#: What a value must be, by pydantic's name of the error.
_RULES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type", "mapping_type"), "a mapping of names to values"
    ),
    "string_type": "a text",
    "path_type": "a path",
}
_LONGEST = 60


def _shown(value: object) -> str:
    """A value in a message: plain ones as they are, of others only the kind, since a file may have secrets in them."""
    if value is None or isinstance(value, (bool, int, float)):
        return "empty" if value is None else str(value).lower()[:_LONGEST]
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...")
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, Sequence) else "no plain value"


def _plain(message: str) -> str:
    """A message of pydantic as the end of a sentence."""
    return message.removeprefix("Input should be ").removeprefix("Value error, ")
