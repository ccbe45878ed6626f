"""Attacks: searches for prompts, or embeddings in a prompt's place, that bring an erased concept back.

An attack proposes images; `search.py` generates them with the edited model and judges them. One file for each attack.
"""

from __future__ import annotations

from efface.attacks.base import Attack, Target, Trial
from efface.registry import Registry

ATTACKS: Registry[Attack] = Registry(
    "attack",
    {name: f"efface.attacks.{name}:ENTRY" for name in ("random_prefix", "embedding_shift", "unlearndiff", "inversion")},
    "efface.attacks",
)
#: The attacks without given adversarial prompts: fast, and weaker than attacks that follow a gradient.
DEFAULT: tuple[str, ...] = ("random_prefix", "embedding_shift")

__all__ = ["ATTACKS", "DEFAULT", "Attack", "Target", "Trial"]
