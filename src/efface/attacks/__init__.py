"""Attacks: searches for prompts, or embeddings in a prompt's place, that bring an erased concept back.

An attack proposes images; `search.py` generates them with the edited model and judges them. One file for each attack.
"""

from __future__ import annotations

from efface.attacks.base import Attack, Target, Trial
from efface.registry import Registry

_BUILT_IN = (
    "random_prefix",
    "embedding_shift",
    "ring_a_bell",
    "unlearndiff",
    "p4d_prefix",
    "p4d_n",
    "p4d_k",
    "inversion",
)
ATTACKS: Registry[Attack] = Registry(
    "attack", {name: f"efface.attacks.{name}:ENTRY" for name in _BUILT_IN}, "efface.attacks"
)
#: The attacks without given adversarial prompts: fast, and weaker than attacks that follow a gradient.
DEFAULT: tuple[str, ...] = ("random_prefix", "embedding_shift")

__all__ = ["ATTACKS", "DEFAULT", "Attack", "Target", "Trial"]
