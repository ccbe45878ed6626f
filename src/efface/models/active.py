"""The edits that act on a denoiser now, attached or baked, so that a model's hash includes them.

They are registered by denoiser, because a model and the pipelines made of its parts share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from efface.models.modules import plain

if TYPE_CHECKING:
    from torch import nn


@dataclass(eq=False)
class Active:
    """Edits that act together.

    Attributes:
        identity: Returns what identifies the edits, such as their hashes. It is called only when a hash is asked for,
            because hashing takes longer than attaching may.
        strength: Their strength now.
        how: "attached" or "baked".
    """

    identity: Callable[[], str]
    strength: float
    how: str


_active: WeakKeyDictionary[nn.Module, list[Active]] = WeakKeyDictionary()


def register(denoiser: nn.Module, edits: Active) -> Callable[[], None]:
    """Register edits that act on a denoiser; the returned function removes them, once."""
    registered = _active.setdefault(plain(denoiser), [])
    registered.append(edits)

    def unregister() -> None:
        if edits in registered:
            registered.remove(edits)

    return unregister


def hash_with_active(hash_of_weights: str, denoiser: Any) -> str:
    """A model's hash: the hash of its weights while no edits act on its denoiser."""
    acting = identity_of_active(denoiser)
    return hashlib.sha256(f"{hash_of_weights}\n{acting}".encode()).hexdigest() if acting else hash_of_weights


def identity_of_active(denoiser: Any) -> str:
    """What identifies the edits that act on a denoiser now; empty if none does."""
    return "\n".join(
        f"{edits.how} {edits.strength} {edits.identity()}"
        for edits in _active.get(plain(denoiser), ())
        if edits.strength
    )
