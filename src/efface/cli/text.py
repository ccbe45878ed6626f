"""Text of files, prompts and libraries, as it may be printed: without control characters, and not too long."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TextIO, cast

_BREAKS = re.compile(r"[ \t\n\r\f\v\x1c-\x1f\x85\u2028\u2029]+")  # spaces of other scripts are part of a name
_ERROR = 320  # characters of an error
_BEGIN = 220  # of them before the part that is left out
CELL, LINE = 300, 4000  # characters of a cell of a table, and of a line


def one_line(message: str) -> str:
    """An error as one line of printable characters; of a long one, the middle is left out."""
    text = printable(" ".join(_BREAKS.split(message.strip())))
    return text if len(text) <= _ERROR else f"{text[:_BEGIN]} ... {text[len(text) - _ERROR + _BEGIN + 5 :]}"


def printable(text: str, limit: int | None = None) -> str:
    r"""The text with control characters, line breaks and unpaired surrogates as escapes, such as `\x1b`.

    Args:
        text: The text.
        limit: The largest number of characters, after which the text is cut.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}..."
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":  # spaces, such as U+3000
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can print every character."""
    return (stream.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def accept_all_characters() -> None:
    """Print characters that the encoding of the terminal does not have as escapes, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        # A program that uses efface may have replaced the streams by objects without this method.
        if callable(reconfigure := getattr(cast(object, stream), "reconfigure", None)):
            reconfigure(errors="backslashreplace")
