"""Runs one command line and maps its outcome to an exit code and at most one line of error."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from efface.cli.app import app
from efface.cli.text import LINE, accept_all_characters, one_line, printable
from efface.errors import BadInput
from efface.files import has_surrogates
from efface.hub import UnreachableError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_INTERRUPTED, _CONTINUES = "interrupted", "; the same command with the same output continues the work"
#: The commands that continue their work, always or with one of these words among their arguments.
_RESUMED: Mapping[str, Collection[str]] = {
    "attack": (), "demo": (), "evaluate": (), "fetch": (), "generate": (),
    "erase": ("--each", "--config", "ablate", "cie", "esd", "lora", "sepce"), "judge": ("train", "--prompts"),
}  # fmt: skip

#: Loggers of optional packages that warn of missing kernels and old names when diffusers imports them.
_NOISE = ("torchao", "bitsandbytes", "torch.utils._pytree", "diffusers.quantizers.torchao")


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return its exit code."""
    if sys.stdout is None or sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by `>&-`
        nothing = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
        sys.stdout, sys.stderr = sys.stdout or nothing, sys.stderr or nothing
    accept_all_characters()
    for name in _NOISE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _printed_log(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        for category in (DeprecationWarning, FutureWarning):  # warnings of libraries to their programmers
            warnings.filterwarnings("ignore", category=category)
        return _exit_code(arguments)


class _OneLine(logging.Formatter):
    """A log message as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return f"efface: {printable(' '.join(record.getMessage().split()), LINE)}"


@contextmanager
def _printed_log() -> Generator[None, None, None]:
    """Print what efface logs to standard error."""
    logger, handler = logging.getLogger("efface"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
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
        for argument in arguments:
            if has_surrogates(argument):
                raise BadInput(_not_decoded(argument))
        code = app(args=list(arguments), prog_name="efface", standalone_mode=False, obj=tuple(arguments))
    except typer.TyperException as error:
        return _end(BAD_INPUT, error.format_message(), error)
    except BadInput as error:
        return _end(BAD_INPUT, str(error), error)
    except UnreachableError as error:
        return _end(FAILED, str(error), error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except BrokenPipeError:
        # The reader of our output is gone; Python must not fail when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _end(*_of_system(error), error)
    except Exception as error:
        hint = "" if _debugging() else " (EFFACE_DEBUG=1 shows the traceback)"
        return _end(FAILED, f"{type(error).__name__}: {error}{hint}", error)
    if code == INTERRUPTED:  # typer handled Ctrl-C itself
        return _interrupted(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(FAILED, f"Cannot write the output: {error.strerror}.", error)
    return code if isinstance(code, int) else DONE


def _not_decoded(argument: str) -> str:
    """Why Python could not decode an argument, in which each byte that it does not know became a surrogate."""
    encoding = sys.getfilesystemencoding()
    with suppress(UnicodeError):
        if encoding != "utf-8":
            text = os.fsencode(argument).decode("utf-8")
            settings = "set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8"
            return f"The argument '{text}' cannot be read, since Python decodes arguments as {encoding}; {settings}."
    return f"The argument {argument} is not valid UTF-8; rename the file, or write it in UTF-8."


def _interrupted(arguments: Sequence[str]) -> int:
    """End after Ctrl-C, and state whether the same command continues the work."""
    words = _RESUMED.get(arguments[0] if arguments else "")
    continues = words is not None and (not words or any(argument.rpartition("=")[2] in words for argument in arguments))
    return _end(INTERRUPTED, _INTERRUPTED + _CONTINUES * continues)


def _of_system(error: OSError) -> tuple[int, str]:
    """The exit code and the sentence for what the system refuses, such as a name that is too long or a full disk."""
    code = BAD_INPUT if error.errno == errno.ENAMETOOLONG else FAILED
    if error.strerror is None:
        return code, f"{type(error).__name__}: {error}"
    what = f"read or write {error.filename}" if error.filename else "write the output"
    return code, f"Cannot {what}: {error.strerror}."


def _debugging() -> bool:
    return os.environ.get("EFFACE_DEBUG", "") not in ("", "0")


def _end(code: int, message: str, error: Exception | None = None) -> int:
    if error is not None and _debugging():
        traceback.print_exception(error)
    print(f"efface: {one_line(message)}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"efface: warning: {printable(' '.join(str(message).split()), LINE)}", file=sys.stderr)
