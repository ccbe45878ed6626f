"""The built-in model `emoji-flow`: a flow transformer in FLUX.1's layout that draws the closed world of `emoji`."""

from __future__ import annotations

from pathlib import Path

from efface.models.builtin import BuiltIn
from efface.models.emoji import catalogue
from efface.models.emoji_flow.recommended import RECOMMENDED

HERE = Path(__file__).parent
_SIDE = 64  # pixels

# zoo/emoji/check_model.py measures these settings.
EMOJI_FLOW = BuiltIn(
    HERE / "weights",
    catalogue,
    {"sampler": "own", "steps": 20, "guidance": 4.0, "batch_size": 32},
    {"height": _SIDE, "width": _SIDE},
    RECOMMENDED,
)
