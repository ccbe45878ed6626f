"""The base class of validated records: frozen, without unknown keys, and with one-sentence errors."""

from __future__ import annotations

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
    """The first error as a sentence that names the field."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Unknown option '{where}'; known are: {', '.join(record.model_fields)}."
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return f"'{where}' is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}."
