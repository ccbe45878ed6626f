"""Guides and settings that a model recommends where the user gives none, and where each value comes from.

Only a model that is part of efface recommends values (`efface.models.builtin.Recommended`), because only there were
they measured. On every other model, and with the setting `preset=published`, a method's published defaults apply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from efface.eraser.record import EraserRecord
from efface.methods import METHODS
from efface.models.builtin import World
from efface.models.model import Model
from efface.request.record import Concept, Request

Source = Literal["user", "recommended", "published"]
PRESET, PUBLISHED = "preset", "published"


@dataclass(frozen=True)
class Sources:
    """Where the guides and settings of a request come from.

    Attributes:
        guides: By concept.
        settings: By setting of the method.
    """

    guides: Mapping[str, Source] = field(default_factory=dict[str, Source])
    settings: Mapping[str, Source] = field(default_factory=dict[str, Source])

    def to_json(self) -> dict[str, dict[str, Source]]:
        """The entries of an eraser's provenance and of `--json`."""
        return {"guide_from": dict(self.guides), "settings_from": dict(self.settings)}


def with_recommended(model: Model, request: Request) -> tuple[Request, Sources]:
    """Complete a request by what the model recommends.

    Args:
        model: The model.
        request: The request of the user. The setting `preset=published`, or a preset of the method, turns
            recommendations off.

    Returns:
        The request with guides and settings, without `preset=published`, and where they come from.
    """
    method, options = METHODS.get(request.method), dict(request.options)
    # Any other preset is one of the method's own, which the user chose as a whole.
    preset = options.pop(PRESET) if options.get(PRESET) == PUBLISHED else options.get(PRESET)
    recommended = None if preset or request.goal != "erase" else model.recommended.get(request.method)
    world = model.world if recommended and recommended.guides else None
    concepts = request.concepts
    guides: dict[str, Source] = {}
    if method.uses_guides and request.goal == "erase":
        concepts = tuple(_guided(concept, world, request.names) for concept in concepts)
        guides = {
            concept.name: _guide_from(concept, completed)
            for concept, completed in zip(request.concepts, concepts, strict=True)
        }
    settings: dict[str, Source] = {
        name: "user" if name in options else "published" for name in method.config.model_fields
    }
    if preset == PUBLISHED:
        options = {**method.published, **options}
    of_kind = recommended.settings.get(concepts[0].kind, {}) if recommended else {}
    for name, value in of_kind.items():
        if name not in options:
            options[name], settings[name] = value, "recommended"
    update = {"concepts": concepts, "options": options}
    return request.model_copy(update=update), Sources(guides, settings)


def _guided(concept: Concept, world: World | None, erased: Collection[str]) -> Concept:
    """The concept with the guide of a world, if it has no guide and the world knows one."""
    guide = world.guide(concept.name, concept.kind, erased) if world and concept.guide is None else None
    return concept.model_copy(update={"guide": guide}) if guide else concept


def _guide_from(concept: Concept, completed: Concept) -> Source:
    if concept.guide is not None:
        return "user"
    return "published" if completed.guide is None else "recommended"


def sources_of(erasers: Iterable[EraserRecord], concepts: Collection[str]) -> dict[str, Any]:
    """The entries of the provenance that say where guides and settings come from, for some concepts of erasers.

    Args:
        erasers: The erasers, made with the same settings.
        concepts: The names of the concepts that remain.

    Returns:
        The entries that the erasers have; an eraser of an earlier version has none.
    """
    entries: dict[str, Any] = {}
    for eraser in erasers:
        guides = eraser.provenance.get("guide_from")
        if guides is not None:
            chosen = {name: source for name, source in guides.items() if name in concepts}
            entries["guide_from"] = {**entries.get("guide_from", {}), **chosen}
            entries["settings_from"] = eraser.provenance["settings_from"]
    return entries
