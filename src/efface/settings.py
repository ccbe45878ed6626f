"""The base of every validated record: frozen, closed to unknown keys, and plain about what is wrong."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from efface.errors import BadRequest

Scalar = bool | int | float | str


class Settings(BaseModel):
    """A frozen record; what does not validate raises BadRequest with one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadRequest(_sentence(type(self), error)) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise BadRequest(_sentence(cls, error)) from None


def _sentence(record: type[BaseModel], error: ValidationError) -> str:
    """The first complaint, in words that name the field."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Unknown option '{where}'; known are: {', '.join(record.model_fields)}."
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    return f"'{where}' is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}."
