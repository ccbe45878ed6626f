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
    from efface.apply.attachment import attach_each as attach_each
    from efface.edits.kinds import TextEdit as TextEdit
    from efface.edits.kinds import WeightEdit as WeightEdit
    from efface.eraser.compose import compose as compose
    from efface.eraser.eraser import Eraser as Eraser
    from efface.eraser.solve import erase as erase
    from efface.errors import BadFile as BadFile
    from efface.errors import BadInput as BadInput
    from efface.errors import BadRequest as BadRequest
    from efface.errors import UnknownName as UnknownName
    from efface.errors import WrongBase as WrongBase
    from efface.formats.exporting import export_eraser as export_eraser
    from efface.formats.importing import import_eraser as import_eraser
    from efface.models import Model as Model
    from efface.models import open_model as open_model
    from efface.progress import RunContext as RunContext
    from efface.request.record import Concept as Concept
    from efface.request.record import Request as Request

__version__ = "0.1.0"

_HOMES = {
    "BadFile": "efface.errors",
    "BadInput": "efface.errors",
    "BadRequest": "efface.errors",
    "Concept": "efface.request.record",
    "Eraser": "efface.eraser.eraser",
    "Model": "efface.models",
    "Request": "efface.request.record",
    "TextEdit": "efface.edits.kinds",
    "UnknownName": "efface.errors",
    "WeightEdit": "efface.edits.kinds",
    "RunContext": "efface.progress",
    "WrongBase": "efface.errors",
    "attach_each": "efface.apply.attachment",
    "compose": "efface.eraser.compose",
    "erase": "efface.eraser.solve",
    "export_eraser": "efface.formats.exporting",
    "import_eraser": "efface.formats.importing",
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
