"""Ways to bring an erased concept back: one file an attack.

An attack searches for prompts, or embeddings in a prompt's place, under which an edited model draws what was erased.
It neither draws nor judges: it is given a function that does both.
"""

from efface.attacks.base import Attack, Target, Trial
from efface.registry import Registry

ATTACKS: Registry[Attack] = Registry(
    "attack",
    {name: f"efface.attacks.{name}:ENTRY" for name in ("random_prefix", "embedding_shift", "unlearndiff", "inversion")},
    "efface.attacks",
)
#: What stands in where nobody gives adversarial prompts: cheap, and weaker than attacks that follow a gradient.
DEFAULT: tuple[str, ...] = ("random_prefix", "embedding_shift")

__all__ = ["ATTACKS", "DEFAULT", "Attack", "Target", "Trial"]
