"""Pairs of prompts with and without a concept, and the direction in the text embedding that the concept adds.

    c = mean_i [ T(p_i with the concept) - T(p_i without) ]

T is the text encoder's output for all tokens. A file of pairs is a CSV with the columns `sensitive prompt,normal
prompt` (RECE's files) or `with,without`. Without a file, the pairs are made from benign templates.

Shapes: T tokens of a prompt, d text width.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from efface.errors import BadFile
from efface.models import Model
from efface.request.names import naming
from efface.tables import read_table

COLUMNS = (("sensitive prompt", "normal prompt"), ("with", "without"))
_TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}", "a painting of a {}", "an image of a {}")


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of a file, each prompt with the concept first.

    Args:
        path: A CSV file with the columns `sensitive prompt,normal prompt` or `with,without`.

    Raises:
        BadFile: The file cannot be read, has other columns or no pair, or a row lacks one of its two prompts.
    """
    table = read_table(Path(path), "pairs of prompts", COLUMNS[0][0], [name for names in COLUMNS for name in names])
    columns = next((names for names in COLUMNS if set(names) <= set(table.columns)), None)
    if columns is None:
        raise BadFile(f"{path} has no columns 'with,without' or 'sensitive prompt,normal prompt'; name its columns so.")
    pairs: list[tuple[str, str]] = []
    for row in table.rows:
        one, other = (row.values.get(column, "") for column in columns)
        if not one or one == other:
            raise BadFile(f"{table.where(row)}: the prompt with the concept is empty or equal to the one without.")
        pairs.append((one, other))
    if not pairs:
        raise BadFile(f"{path} has no pairs of prompts; write one pair per row.")
    return pairs


def _checked(path: str) -> str:
    if path:
        read_pairs(path)
    return path


#: A setting: the path of a file of pairs that can be read, or an empty text.
PairsFile = Annotated[str, AfterValidator(_checked)]


def template_pairs(concept: str) -> list[tuple[str, str]]:
    """Pairs from benign templates, such as "a picture of a church" and "a picture"."""
    return [(template.format(concept), _without_ending(template)) for template in _TEMPLATES]


def direction(model: Model, pairs: list[tuple[str, str]], clip_skip: int | None = None) -> Tensor:
    """The direction c of pairs, (R, d), float32, by the model's text encoder as it is.

    Args:
        model: The model.
        pairs: Prompts with and without the concept.
        clip_skip: Number of the text encoder's last layers to skip.
    """
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    one, other = (model.denoiser_text(model.embed(prompts, clip_skip=clip_skip, truncate=True)) for prompts in sides)
    return (one - other).mean(dim=0)


def without(prompt: str, concept: str) -> str:
    """The prompt without the concept's name, in any case; the name within another word stays."""
    return " ".join(naming(concept).sub(" ", prompt).split())


def _without_ending(template: str) -> str:
    """A template without the concept and the words that lead to it: "a picture of a {}" is "a picture"."""
    return re.sub(r"( of)?( ?\ba)? ?\{\}$", "", template)
