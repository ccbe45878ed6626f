"""What can be wrong with what a user gives. Each message is one sentence that names the input and the mend.

Failures of the work itself (out of memory, a broken download) stay RuntimeError and OSError.
"""


class BadInput(ValueError):  # noqa: N818 - it names the user's mistake, as its kin do
    """A mistake in what the user gave; the command line prints it as one line and exits with 2."""


class BadRequest(BadInput):
    """A request, concept or option that contradicts itself or cannot be carried out."""


class NeedsModel(BadRequest):
    """An eraser that does not hold all that giving a concept back takes: the model it was made for has the rest."""


class BadFile(BadInput):
    """A file that cannot be read, written, or trusted."""


class WrongBase(BadInput):
    """An eraser on a model that it was not made for."""


class UnknownName(BadInput):
    """A name that no registry knows."""
