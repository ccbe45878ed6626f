"""What is on a denoiser besides its own weights: attached and baked erasers, so that a model's hash knows of them.

They are kept by denoiser, as a model and the pipelines made of its parts share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from efface.models.modules import plain

if TYPE_CHECKING:
    from torch import nn

    from efface.eraser.eraser import Eraser


@dataclass(eq=False)
class Change:
    """Erasers that act together.

    Attributes:
        erasers: one for all prompts, or one for each.
        strength: how far they go now.
        how: "attached" or "baked".
    """

    erasers: Sequence[Eraser | None]
    strength: float
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.strength} " + " ".join(eraser.hash if eraser else "-" for eraser in self.erasers)


_changes: WeakKeyDictionary[nn.Module, list[Change]] = WeakKeyDictionary()


def record(denoiser: nn.Module, change: Change) -> Callable[[], None]:
    """Note a change; the function returned strikes it out, once."""
    changes = _changes.setdefault(plain(denoiser), [])
    changes.append(change)

    def strike() -> None:
        if change in changes:
            changes.remove(change)

    return strike


def hash_with_changes(of_weights: str, denoiser: Any) -> str:
    """A model's hash: that of its weights while nothing is on its denoiser."""
    acting = [str(change) for change in _changes.get(plain(denoiser), ()) if change.strength]
    return hashlib.sha256("\n".join([of_weights, *acting]).encode()).hexdigest() if acting else of_weights
