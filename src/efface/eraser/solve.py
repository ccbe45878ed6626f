"""A model and a request to an eraser, with the tools that the method needs.

The module is not called `erase`, since importing it would then hide the function `efface.erase`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from efface.eraser.base import with_parameters
from efface.eraser.streams import joined
from efface.methods import METHODS
from efface.models.model import TEXT

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.methods.base import Tool
    from efface.models.model import Model
    from efface.request.record import Request


def solve(model: Model, request: Request, tools: Mapping[Tool, Callable[[], Any]] | None = None) -> Eraser:
    """Solve for the eraser of a request; the model stays unchanged.

    Args:
        model: The unedited model.
        request: What to erase, and how.
        tools: By name, a function that creates the tool; only the tools that the method needs are created.

    Raises:
        BadInput: The request cannot be carried out; the message says what to change.
    """
    method = METHODS.get(request.method)
    settings = method.config.model_validate(request.options)
    given = {name: (tools or {})[name]() for name in method.needs}
    # A guard acts on the denoiser as a whole, training on its weights, and debiasing is steered by images; any other
    # edit is of one text stream.
    whole = method.edit == "guard" or method.trained or request.goal == "debias" or not request.pooled
    streams = [TEXT] if whole else list(model.streams)
    eraser = joined({stream: method.erase(model.reading(stream), request, settings, **given) for stream in streams})
    return with_parameters(eraser, model)
