"""Runs one command line and maps its outcome to an exit code and at most one line of error."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import typer

from efface.cli.app import app
from efface.errors import BadInput
from efface.hub import UnreachableError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_INTERRUPTED = "interrupted; the same command with the same output continues the work"


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return its exit code."""
    with _printed_log(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        for category in (DeprecationWarning, FutureWarning):  # warnings of libraries to their programmers
            warnings.filterwarnings("ignore", category=category)
        return _exit_code(arguments)


@contextmanager
def _printed_log() -> Generator[None, None, None]:
    """Print what efface logs to standard error."""
    logger, handler = logging.getLogger("efface"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("efface: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        code = app(args=list(arguments), prog_name="efface", standalone_mode=False, obj=tuple(arguments))
    except typer.TyperException as error:
        return _end(BAD_INPUT, error.format_message(), error)
    except BadInput as error:
        return _end(BAD_INPUT, str(error), error)
    except UnreachableError as error:
        return _end(FAILED, str(error), error)
    except (KeyboardInterrupt, typer.Abort):
        return _end(INTERRUPTED, _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output is gone; Python must not fail when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        hint = "" if _debugging() else " (EFFACE_DEBUG=1 shows the traceback)"
        return _end(FAILED, f"{type(error).__name__}: {error}{hint}", error)
    if code == INTERRUPTED:  # typer handled Ctrl-C itself
        return _end(INTERRUPTED, _INTERRUPTED)
    return code if isinstance(code, int) else DONE


def _debugging() -> bool:
    return os.environ.get("EFFACE_DEBUG", "") not in ("", "0")


def _end(code: int, message: str, error: Exception | None = None) -> int:
    if error is not None and _debugging():
        traceback.print_exception(error)
    print(f"efface: {one_line(message)}", file=sys.stderr)
    return code


def one_line(message: str) -> str:
    """The message with line breaks and runs of spaces replaced by single spaces."""
    return " ".join(message.split())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"efface: warning: {one_line(str(message))}", file=sys.stderr)
