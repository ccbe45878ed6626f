"""Opening a model and reading what erasing needs of it, part by part."""

from efface.models.model import Model
from efface.models.open import open_model
from efface.models.runtime import Runtime
from efface.models.text.embedded import Embedded

__all__ = ["Embedded", "Model", "Runtime", "open_model"]
