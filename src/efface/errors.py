"""Errors in the user's input. Each message is one sentence that names the input and the fix.

Failures during the work (out of memory, an interrupted download) stay RuntimeError and OSError.
"""

from __future__ import annotations

from pathlib import Path

#: The fix of errors about existing files, for callers of both the command line and Python.
FORCE = "--force (in Python, force=True)"


class BadInput(ValueError):  # noqa: N818 - like its subclasses, named after the mistake
    """A mistake in the user's input. The command line prints the message as one line and exits with code 2."""


class BadRequest(BadInput):
    """A request, concept or option that contradicts itself or cannot be fulfilled."""


class NeedsModel(BadRequest):
    """An eraser file without all the data that restoring a concept needs; the model it was made for has the rest."""


class BadFile(BadInput):
    """A file that cannot be read, written or trusted."""


class AlreadyComplete(BadFile):
    """A folder with the complete result of the same work. The command line reports it and exits with code 0.

    Attributes:
        folder: The folder.
        result: The file that was written last.
    """

    def __init__(self, folder: Path, result: Path) -> None:
        super().__init__(
            f"{folder} is already complete: see {result}; choose another -o, or pass {FORCE} to do it again."
        )
        self.folder, self.result = folder, result


class NoInterval(BadInput):
    """Images from which no interval can be computed, so that a number would claim certainty."""


class NothingToImport(BadInput):
    """A file with the weights of the model itself, where an edited model is expected."""


class WrongBase(BadInput):
    """An eraser used with a model that it was not made for."""


class UnknownName(BadInput):
    """A name that is not in the registry."""
