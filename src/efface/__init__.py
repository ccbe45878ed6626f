"""efface makes a text-to-image model forget a concept, shows that the model forgot it, and can restore the concept.

    import efface

    eraser = efface.erase("emoji", "cat", to="dog")
    images = efface.generate("a cat in 3d style", eraser=eraser, n=4)
    print(efface.judge(images, ["cat", "dog"]).questions)

Every verb of the command line is a function here. Names are imported when they are first used, so that `import efface`
is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.api.attack import attack as attack
    from efface.api.compare import compare as compare
    from efface.api.compose import compose as compose
    from efface.api.erase import erase as erase
    from efface.api.erase_each import erase_each as erase_each
    from efface.api.evaluate import evaluate as evaluate
    from efface.api.evaluate import propose_adjacent as propose_adjacent
    from efface.api.export import export as export
    from efface.api.fetch import fetch as fetch
    from efface.api.generate import generate as generate
    from efface.api.generate_classes import generate_classes as generate_classes
    from efface.api.generate_each import generate_each as generate_each
    from efface.api.generate_grid import generate_grid as generate_grid
    from efface.api.import_eraser import import_eraser as import_eraser
    from efface.api.inspect import inspect as inspect
    from efface.api.judge import judge as judge
    from efface.api.judge_each import judge_each as judge_each
    from efface.api.judge_each import read_challenge_results as read_challenge_results
    from efface.api.plan import plan as plan
    from efface.api.train_judge import train_judge as train_judge
    from efface.edits.kinds import TextEdit as TextEdit
    from efface.edits.kinds import WeightEdit as WeightEdit
    from efface.eraser.attach import attach_each as attach_each
    from efface.eraser.certificate import certify as certify
    from efface.eraser.eraser import Eraser as Eraser
    from efface.errors import AlreadyComplete as AlreadyComplete
    from efface.errors import BadFile as BadFile
    from efface.errors import BadInput as BadInput
    from efface.errors import BadRequest as BadRequest
    from efface.errors import UnknownName as UnknownName
    from efface.errors import WrongBase as WrongBase
    from efface.judges import open_judge as open_judge
    from efface.models import Model as Model
    from efface.models import Runtime as Runtime
    from efface.models import open_model as open_model
    from efface.progress import RunContext as RunContext
    from efface.request.record import Concept as Concept
    from efface.request.record import Request as Request

__version__ = "0.1.0"

_MODULES = {
    "AlreadyComplete": "efface.errors",
    "BadFile": "efface.errors",
    "BadInput": "efface.errors",
    "BadRequest": "efface.errors",
    "Concept": "efface.request.record",
    "Eraser": "efface.eraser.eraser",
    "Model": "efface.models",
    "Request": "efface.request.record",
    "RunContext": "efface.progress",
    "Runtime": "efface.models",
    "TextEdit": "efface.edits.kinds",
    "UnknownName": "efface.errors",
    "WeightEdit": "efface.edits.kinds",
    "WrongBase": "efface.errors",
    "attach_each": "efface.eraser.attach",
    "attack": "efface.api.attack",
    "certify": "efface.eraser.certificate",
    "compare": "efface.api.compare",
    "compose": "efface.api.compose",
    "erase": "efface.api.erase",
    "erase_each": "efface.api.erase_each",
    "evaluate": "efface.api.evaluate",
    "export": "efface.api.export",
    "fetch": "efface.api.fetch",
    "generate": "efface.api.generate",
    "generate_classes": "efface.api.generate_classes",
    "generate_each": "efface.api.generate_each",
    "generate_grid": "efface.api.generate_grid",
    "import_eraser": "efface.api.import_eraser",
    "inspect": "efface.api.inspect",
    "judge": "efface.api.judge",
    "judge_each": "efface.api.judge_each",
    "open_judge": "efface.judges",
    "open_model": "efface.models",
    "plan": "efface.api.plan",
    "propose_adjacent": "efface.api.evaluate",
    "read_challenge_results": "efface.api.judge_each",
    "train_judge": "efface.api.train_judge",
}

__all__ = [*_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'efface' has no attribute '{name}'")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
