"""efface makes a text-to-image model forget a concept, shows that it forgot, and can take the forgetting back.

    import efface

    model = efface.open_model("emoji")
    eraser = efface.erase(model, "cat", to="dog")
    with eraser.attach(model):
        images = model.pipeline()("a cat in 3d style").images

Names are imported when they are first used, so that `import efface` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.attach import attach_each as attach_each
    from efface.composing import compose as compose
    from efface.edits import TextEdit as TextEdit
    from efface.edits import WeightEdit as WeightEdit
    from efface.eraser import Eraser as Eraser
    from efface.erasing import erase as erase
    from efface.errors import BadFile as BadFile
    from efface.errors import BadInput as BadInput
    from efface.errors import BadRequest as BadRequest
    from efface.errors import UnknownName as UnknownName
    from efface.errors import WrongBase as WrongBase
    from efface.export import export_eraser as export_eraser
    from efface.importing import import_eraser as import_eraser
    from efface.models import Model as Model
    from efface.models import open_model as open_model
    from efface.request import Concept as Concept
    from efface.request import Request as Request
    from efface.training.work import Work as Work

__version__ = "0.1.0"

_HOMES = {
    "BadFile": "efface.errors",
    "BadInput": "efface.errors",
    "BadRequest": "efface.errors",
    "Concept": "efface.request",
    "Eraser": "efface.eraser",
    "Model": "efface.models",
    "Request": "efface.request",
    "TextEdit": "efface.edits",
    "UnknownName": "efface.errors",
    "WeightEdit": "efface.edits",
    "Work": "efface.training.work",
    "WrongBase": "efface.errors",
    "attach_each": "efface.attach",
    "compose": "efface.composing",
    "erase": "efface.erasing",
    "export_eraser": "efface.export",
    "import_eraser": "efface.importing",
    "open_model": "efface.models",
}

__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'efface' has no attribute '{name}'")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
