"""Opening a model and reading what erasing needs of it, part by part."""

from efface.models.base import Model
from efface.models.embedded import Embedded
from efface.models.open import open_model

__all__ = ["Embedded", "Model", "open_model"]
