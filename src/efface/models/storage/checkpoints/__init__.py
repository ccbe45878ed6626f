"""Files that a single-file checkpoint of Stable Diffusion lacks: configurations of its parts, and CLIP's tokenizer.

The configurations are those of Stable Diffusion 1.x, 2.x (768, v-prediction) and XL (base 1.0). `clip_merges.txt` are
the 48,894 merges of CLIP's byte-pair encoding (OpenAI, MIT licence), from which its vocabulary follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def clip_tokenizer(kind: Any, **options: Any) -> Any:
    """CLIP's tokenizer, an instance of the class `kind`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    # Bytes that are not printable are represented by the characters from 256 on.
    letters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    lines = (HERE / "clip_merges.txt").read_text(encoding="utf-8").splitlines()
    merges: list[Any] = [tuple(line.split()) for line in lines]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    ids = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return kind(vocab=ids, merges=merges, **options)
