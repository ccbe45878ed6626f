"""Prompts of concept ablation: those of the anchor, and what each becomes with the concept in it.

Anchor prompts come from a file, from a language model (`ablate_captions`), or, by default, from the templates here.
Their pictures are what the concept shall become. The concept's prompt is made of the anchor's:

    object       the anchor's words are replaced by the concept's: "a photo of a cat", "a photo of a grumpy cat"
    style        the style is added in one of three ways, its name once or twice, as in the CompVis code; where the
                 prompt names the guide, a style too, that is replaced
    unsafe       the theme is added in one of three ways, as in the diffusers code
    memorised    the picture's caption, or another prompt that still draws it, whatever the anchor is

The published anchor prompts are captions of LAION for styles, and by ChatGPT or GPT-3.5 for the others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import torch

from efface.errors import BadFile, BadRequest
from efface.methods.ablate_augment import drawn
from efface.methods.everyday import EVERYDAY
from efface.request import Concept, Kind

#: What an object, or a person, is asked for as.
OBJECT = (
    "{}", "a {}", "the {}", "one {}", "a photo of a {}", "a picture of a {}", "an image of a {}", "a painting of a {}",
    "a drawing of a {}", "a portrait of a {}", "a sketch of a {}", "an illustration of a {}", "a photo of the {}",
    "a good picture of a {}", "a colourful picture of a {}", "a simple drawing of a {}", "a close view of a {}",
    "a {} from the side", "a {} in the middle", "a {} on a plain background", "a small {}", "a large {}",
    "photo of {}", "image of {}", "picture of {}",
)  # fmt: skip
#: A memorised picture's caption, said otherwise.
PARAPHRASE = (
    "a picture of {}", "an image that shows {}", "something like {}", "another picture of {}", "a new drawing of {}",
    "{}, seen differently", "a different view of {}", "{} by someone else", "a scene with {}", "a photo about {}",
    "an old painting about {}", "a simple sketch of {}",
)  # fmt: skip
#: The anchor where no guide is given.
ANCHORS: dict[Kind, str] = {"style": "painting", "unsafe": "person"}


def anchor_of(concept: Concept) -> str:
    """The words of what a concept shall become.

    Raises:
        BadRequest: the kind has no anchor of its own, and no guide is given.
    """
    guide = (concept.guide or "").strip() or ANCHORS.get(concept.kind, "")
    if not guide and concept.kind == "object":
        raise BadRequest(f"To ablate '{concept.name}', say what shall be drawn instead; give a guide, e.g. --to dog.")
    return guide


def templates(concept: Concept) -> list[str]:
    """Anchor prompts where no file and no language model gives them."""
    guide = anchor_of(concept)
    if concept.kind == "style":
        return [f"{scene} in {guide} style" if concept.guide else f"a painting of {scene}" for scene in EVERYDAY]
    words = PARAPHRASE if concept.kind == "memorised" else OBJECT
    return [template.format(concept.name if concept.kind == "memorised" else guide) for template in words]


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, or the column `prompt` of a CSV.

    Raises:
        BadFile: it cannot be read, has no such column, or holds no prompt.
    """
    try:
        # Not `splitlines`: to that, a form feed or U+2028 within a field ends the row.
        lines: Iterable[str] = StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadFile(f"Cannot read anchor prompts from {path}: {reason}.") from error
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(lines, skipinitialspace=True)
        columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
        if "prompt" not in columns:
            raise BadFile(f"{path} has no column 'prompt' (columns: {', '.join(columns) or 'none'}); rename one.")
        lines = [row[columns["prompt"]] or "" for row in rows]
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise BadFile(f"{path} holds no anchor prompt; write one a line, or a CSV with a column 'prompt'.")
    return prompts


def usable(captions: list[str], concept: Concept, source: str) -> list[str]:
    """The captions that can be made the concept's.

    Raises:
        BadRequest: there are none.
    """
    if concept.kind != "object":
        return captions
    anchor = anchor_of(concept)
    kept = [caption for caption in captions if anchor.casefold() in caption.casefold()]
    if not kept:
        raise BadRequest(f"No anchor prompt of {source} has '{anchor}' in it, which '{concept.name}' would replace.")
    return kept


def target_prompt(caption: str, target: str, concept: Concept, generator: torch.Generator) -> str:
    """An anchor's caption as that of what is ablated; `target` is the concept's name, or stands for it."""
    anchor = anchor_of(concept)
    if concept.kind == "memorised":
        return target
    if concept.kind == "unsafe":
        return (f"{target}, {caption}", f"in {target} style, {caption}", f"{caption}, {target}")[drawn(3, generator)]
    if concept.kind == "object" or (concept.guide and anchor.casefold() in caption.casefold()):
        return re.sub(re.escape(anchor), lambda _: target, caption, flags=re.IGNORECASE)
    form = drawn(3, generator)
    words = f"{target} {target}" if drawn(2, generator) else target
    return (
        f"{caption}, in the style of {words}",
        f"{words} inspired painting, {caption}",
        f"in {words}'s style, {caption}",
    )[form]
