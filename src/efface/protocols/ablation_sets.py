"""The prompts of an ablated concept, its anchor and its hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, TypeAdapter

from efface.errors import BadFile, BadInput
from efface.files import read_text
from efface.models.builtin import World
from efface.parsing import library_errors, parse_json
from efface.protocols.base import EvaluationInput
from efface.protocols.world import grid_of, spellings
from efface.request.names import name_key
from efface.request.record import Concept
from efface.settings import Settings
from efface.tables import read_table

_OBJECT = ("a {}", "a photo of a {}", "a picture of a {}", "an image of a {}", "a painting of a {}")
_STYLE = ("a house in {} style", "a car in {} style", "a tree in {} style", "a cat in {} style", "a church in {} style")


@dataclass(frozen=True)
class PromptSet:
    """A concept and the prompts for it."""

    name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class AblationSets:
    """The sets of one ablated concept.

    Attributes:
        target: The concept itself.
        anchor: What it was ablated towards.
        hard_negatives: Concepts that are easily confused with it.
        is_style: Whether the names are those of styles.
    """

    target: PromptSet
    anchor: PromptSet
    hard_negatives: tuple[PromptSet, ...]
    is_style: bool


class EvalEntry(Settings):
    """One concept of eval.json.

    Attributes:
        target: The concept's name.
        anchor: The anchor's name.
        hard_negatives: Names of hard negatives; the key may also be `hard_negative`.
    """

    target: str
    anchor: str
    hard_negatives: tuple[str, ...] = Field(
        default=(), validation_alias=AliasChoices("hard_negatives", "hard_negative")
    )


_Kind = Literal["style", "object", "memorization"]
_FILE = TypeAdapter(dict[_Kind, dict[str, EvalEntry]])


def sets_for(evaluation: EvaluationInput, concept: Concept, erased: Sequence[str] = ()) -> AblationSets:
    """A concept's sets, without hard negatives that the eraser erases too.

    Args:
        evaluation: The evaluation.
        concept: The ablated concept.
        erased: The names of all concepts that the eraser erases.

    Raises:
        BadInput: There is no anchor to compare with, it is erased too, or the data has no such concept.
    """
    data = evaluation.data
    sets = _published(data, concept) if data is not None else _from_request(evaluation, concept)
    anchor = sets.anchor.name
    if any(name != concept.name and _is_same(evaluation, name, anchor) for name in erased):
        fix = "name another in a request, --request FILE.yaml" if data is None else f"change it in {data}"
        raise BadInput(f"The anchor of '{concept.name}' is '{anchor}', which is erased too; {fix}.")
    left = (one for one in sets.hard_negatives if not any(_is_same(evaluation, name, one.name) for name in erased))
    return replace(sets, hard_negatives=tuple(left))


def _is_same(evaluation: EvaluationInput, one: str, other: str) -> bool:
    """Whether two names mean one concept: by their words, to the judge, or in the closed world."""
    if spellings(one) & spellings(other) or evaluation.judge.same(one, other):
        return True
    if evaluation.world is None:
        return False
    meaning = grid_of(evaluation.world).meaning
    return meaning(one) is not None and meaning(one) == meaning(other)


def _from_request(evaluation: EvaluationInput, concept: Concept) -> AblationSets:
    """The sets of the request, or of the closed world."""
    anchor, near, is_style = _around(concept, evaluation.world)
    if not anchor:
        raise BadInput(
            f"'{concept.name}' has no anchor: name one when erasing (--to), or give the reference's assets with --data."
        )
    templates = _STYLE if is_style else _OBJECT
    others = [name for name in near if name_key(name) not in (name_key(concept.name), name_key(anchor))]
    target, guide, *rest = (_in_templates(name, templates) for name in (concept.name, anchor, *others))
    return AblationSets(target, guide, tuple(rest), is_style)


def _in_templates(name: str, templates: Sequence[str]) -> PromptSet:
    return PromptSet(name, tuple(template.format(name) for template in templates))


def _around(concept: Concept, world: World | None) -> tuple[str, tuple[str, ...], bool]:
    """Anchor, hard negatives and whether the concept is a style: by the request, else by the closed world."""
    domain, label = (grid_of(world).meaning(concept.name) if world else None) or (None, "")
    guide, near = concept.guide or "", concept.adjacent
    if world and domain == "object":
        thing = next(thing for thing in world.objects if thing.name == label)
        guide, near = guide or thing.guide, near or thing.near
    elif world and domain == "style":
        look = next(style for style in world.styles if style.name == label)
        guide, near = guide or look.guide, near or tuple(s.name for s in world.styles if s.name != label)
    return guide, near, domain == "style" or (domain is None and concept.kind == "style")


def _published(data: Path, concept: Concept) -> AblationSets:
    """The sets of eval.json and the folder eval_prompts beside it; without that folder, in plain templates."""
    path = data / "eval.json" if data.is_dir() else data
    text = read_text(path, "the sets")
    with library_errors(f"Cannot read the sets from {path}"):
        content = _FILE.validate_python(parse_json(text))
    for kind, entries in content.items():
        for name, entry in entries.items():
            if name_key(concept.name) in (name_key(name), name_key(entry.target)):
                return _sets(path.parent / "eval_prompts", entry, kind)
    known = ", ".join(name for entries in content.values() for name in entries)
    raise BadInput(f"{path} has no concept '{concept.name}'; it has: {known}.")


def _sets(folder: Path, entry: EvalEntry, kind: _Kind) -> AblationSets:
    names = (entry.target, entry.anchor, *entry.hard_negatives)
    if kind == "memorization":  # the captions are prompts
        sets = [PromptSet(name, (name,)) for name in names]
    elif not folder.is_dir():
        sets = [_in_templates(name, _STYLE if kind == "style" else _OBJECT) for name in names]
    elif kind == "style":
        sets = [PromptSet(name, _prompts(folder, (name.replace(" ", "_"), name.split()[0]))) for name in names]
    else:
        general = _prompts(folder, (entry.anchor.replace(" ", "_"),))
        sets = [PromptSet(name, tuple(p.replace(entry.anchor, name) for p in general)) for name in names]
    return AblationSets(sets[0], sets[1], tuple(sets[2:]), kind == "style")


def _prompts(folder: Path, stems: Sequence[str]) -> tuple[str, ...]:
    """The lines of the first of these files that exists."""
    for stem in stems:
        path = folder / f"{stem}_eval.txt"
        with library_errors(f"Cannot read the prompts from {path}"):  # a name can be too long for a file
            inside = path.is_file() and path.resolve().is_relative_to(folder.resolve())
        if inside and (lines := read_table(path, "prompts", "prompt").texts("prompt")):
            return tuple(lines)
    raise BadFile(f"{folder} has no prompts for '{stems[0]}'; it needs {stems[0]}_eval.txt, one prompt a line.")
