"""Reading files whose content is not yet checked: limits first, then the syntax, then the schema of the format.

Every format has one schema, which is checked once, when the file is read. The rest of efface relies on it. What
libraries raise about a content becomes a `BadFile` at one place, `library_errors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from efface.errors import BadFile, BadInput
from efface.files import has_surrogates, read_text

_DEPTH = 64  # levels of lists and mappings
_VALUES = 2_000_000  # values in one document, each as often as YAML's aliases repeat it
_DIGITS = 40  # of an integer; tokenizers write 10^30 for "no limit"
_MERGED = 10_000  # keys of one YAML mapping after its merge keys are resolved
_MERGE = "tag:yaml.org,2002:merge"
_REASON = 200


@contextmanager
def library_errors(failure: str, *passed: type[Exception]) -> Generator[None, None, None]:
    """The boundary for exceptions that libraries raise about a file's content.

    A damaged file can raise nearly anything in a parser, and this depends on the library's version.

    Args:
        failure: What failed, as the beginning of a sentence: "Cannot read the prompts from a.csv".
        passed: Exceptions that are answers and not errors.

    Raises:
        BadFile: The block raised an exception that is not a `BadInput`.
    """
    try:
        yield
    except (BadInput, *passed):
        raise
    except Exception as error:
        raise BadFile(f"{failure}: {reason_of(error)}.") from error


def reason_of(error: BaseException) -> str:
    """What an exception means, as the end of a sentence."""
    if isinstance(error, MemoryError):
        return "its content does not fit in memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, ValidationError):
        return first_error(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text[:_REASON] or type(error).__name__


class Schema(BaseModel):
    """The content of a format: frozen, with exact types, without unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def checked(cls, content: object, what: str) -> Self:
        """The content as a record.

        Args:
            content: What a parser returned.
            what: The content in words, with its file, as the beginning of a sentence.

        Raises:
            BadFile: The content does not have this schema.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BadFile(f"{what} is damaged or was not written by efface: {first_error(error)}.") from None


def first_error(error: ValidationError) -> str:
    """The first error of a validation: the place and what is wrong there."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:6])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{place or 'the content'}: {message}"[:_REASON]


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """The value of a JSON text, without unpaired surrogates, and without numbers or nesting beyond the limits.

    Args:
        text: The text.
        finite: Whether NaN and infinity are rejected.

    Raises:
        ValueError: The text is not JSON, or beyond the limits.
    """
    try:
        constants = _no_constant if finite else float
        value = json.loads(text, parse_constant=constants, parse_int=_bounded_int, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_values(value, finite)
    return value


def read_json(path: Path, what: str = "the settings", finite: bool = True) -> Mapping[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        what: The content in words.
        finite: Whether NaN and infinity are rejected; schedulers of diffusers have infinity among their settings.

    Raises:
        BadFile: The file cannot be read, or is not a JSON object.
    """
    text = read_text(path, what)
    with library_errors(f"Cannot read {what} from {path}"):
        content = parse_json(text, finite)
    if not isinstance(content, dict):
        raise BadFile(f"Cannot read {what} from {path}: it is not a JSON object.")
    return cast(dict[str, Any], content)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML document.

    Args:
        path: The file.
        what: The content in words.

    Raises:
        BadFile: The file cannot be read.
    """
    text = read_text(path, what)
    with library_errors(f"Cannot read {what} from {path}"):
        return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, within the limits of `parse_json`.

    Raises:
        ValueError: The text is not YAML, or beyond the limits.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def fetch_flow_collection_start(self, TokenClass: Any) -> None:
            if self.flow_level >= _DEPTH:  # here already, since the time to scan grows with the square of the level
                raise ValueError("it is nested too deeply")
            super().fetch_flow_collection_start(TokenClass)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node: Any = super().compose_mapping_node(anchor)
            _check_keys(node)
            return node

        def flatten_mapping(self, node: Any) -> None:
            merges = any(key.tag == _MERGE for key, _ in node.value)
            super().flatten_mapping(node)
            if merges and len(node.value) > _MERGED:
                raise ValueError("its merge keys make too many values")

    try:
        value = yaml.load(text, Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:  # without an excerpt of the file, which may have a secret
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem or error.context or 'this is not YAML'}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    check_values(value)
    return value


def _check_keys(node: Any) -> None:
    """Check that a YAML mapping has no key twice, of which the last one would win."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key.value, str) and key.tag != _MERGE:  # other keys are lists, which no record has
            if (key.tag, key.value) in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: it has the key '{key.value[:40]}' twice")
            seen.add((key.tag, key.value))


def check_values(value: object, finite: bool = True) -> None:
    """Check that nested lists and mappings have few enough levels and values, and no extreme values.

    Args:
        value: What a parser returned.
        finite: Whether NaN and infinity are rejected.

    Raises:
        ValueError: They do not.
    """
    for item in leaves(value):
        _check_value(item, finite)


def leaves(value: object) -> Iterator[object]:
    """The keys and values in nested lists and mappings that are neither.

    Args:
        value: What a parser returned.

    Raises:
        ValueError: There are too many levels or values.
    """
    level, values = [value], 0
    for _ in range(_DEPTH):
        following: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                mapping = cast(Mapping[object, object], item)
                following += (*mapping.keys(), *mapping.values())
            elif isinstance(item, (list, tuple, set)):
                following += cast(Collection[object], item)
            else:
                yield item
            if values + len(following) > _VALUES:
                raise ValueError(f"it has more than {_VALUES} values")
        values += len(following)
        level = following
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _check_value(value: object, finite: bool) -> None:
    if isinstance(value, str):
        if has_surrogates(value):
            raise ValueError("a text has half of a surrogate pair")
    elif isinstance(value, float) and finite and not math.isfinite(value):
        raise ValueError("a number is not finite")
    elif isinstance(value, int) and abs(value) >= 10**_DIGITS:
        raise ValueError("a number has too many digits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A name that occurs again must have the same value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        for name, value in pairs:
            if content[name] != value:
                raise ValueError(f"it has two values for '{name[:40]}'")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _bounded_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)
