"""Several erasers as one.

- Those of one method and settings become the eraser that one request for all their concepts would have made: they are
  solved again together from what they stored, without a model.
- Changes of weights are summed, each as it was solved from the base.
- What is left is applied one after the other in the order given, and said so: the text passes the first edit, then the
  second, which was not solved for what the first one makes of it.

The outcome of the last two keeps its parts, so that concepts can be given back from each as from the part alone.

The module is not called `compose`, since importing it would then hide the function `efface.compose`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import TYPE_CHECKING

import torch

from efface.eraser.certificate import certify_again, uncertified
from efface.eraser.compatible import check_bases, check_guides, check_parts, concepts_of
from efface.eraser.eraser import Base, Eraser
from efface.eraser.streams import joined as join
from efface.eraser.streams import split
from efface.errors import BadRequest
from efface.methods import METHODS
from efface.methods.closed_form.stored import Apart
from efface.models.model import TEXT
from efface.provenance import versions
from efface.request.record import COMPOSED, Concept, Request

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.models import Model

ORDERED = "one after the other in this order"


def compose_erasers(*erasers: Eraser, force: bool = False) -> Eraser:
    """One eraser that does what all of them do.

    Args:
        *erasers: in the order in which they are applied where the order matters.
        force: compose erasers although they were made for different models.

    Raises:
        WrongBase: they were made for different models.
        BadRequest: they contradict each other, or cannot act at the same time.
    """
    if not erasers:
        raise BadRequest("Nothing to compose: give at least one eraser.")
    if len(erasers) == 1:
        return erasers[0]
    parts = [part for eraser in erasers for part in eraser.parts or (eraser,)]
    for one, other in combinations(parts, 2):
        if one.hash == other.hash:
            raise BadRequest(f"The eraser of {concepts_of(one)} is given twice; give it once.")
        check_bases(one, other, force)
    parts, why = _solved_together(parts)
    if len(parts) == 1:
        return parts[0]
    for one, other in combinations(parts, 2):
        check_parts(one, other)
    composed = _side_by_side(parts)
    if composed.provenance["applied"] == ORDERED:
        order = ", then ".join(f"{part.method} ({concepts_of(part)})" for part in parts)
        reason = why[0] if why else "The erasers are of several methods or settings"
        warnings.warn(f"{reason}: applied {ORDERED}, {order}.", stacklevel=2)
    return composed


def only_of_parts(eraser: Eraser, names: Sequence[str], model: Model | DiffusionPipeline | str | None = None) -> Eraser:
    """Some concepts of a composed eraser: each part that has any of them, for those alone."""
    wanted = {name.casefold() for name in eraser.request.keeping(names).names}
    left: list[Eraser] = []
    for part in eraser.parts:
        kept = [name for name in part.concepts if name.casefold() in wanted]
        if kept:
            left.append(part if len(kept) == len(part.concepts) else part.only(*kept, model=model))
    return left[0] if len(left) == 1 else _side_by_side(left)


def _solved_together(parts: Sequence[Eraser]) -> tuple[list[Eraser], list[str]]:
    """The parts with those of one method and settings made one, at the first one's place; and why some were not."""
    groups: dict[Hashable, list[Eraser]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(_settings(part) or index, []).append(part)
    left, why = list[Eraser](), list[str]()
    for group in groups.values():
        if len(group) == 1:
            left += group
            continue
        try:
            left.append(_joined(group))
        except Apart as reason:
            why.append(f"The erasers of {group[0].method} cannot be solved again together, as {reason}")
            left += group
    return left, why


def _joined(group: Sequence[Eraser]) -> Eraser:
    first, together = group[0].request, METHODS.get(group[0].method).together
    assert together is not None
    check_guides([concept for part in group for concept in part.request.concepts])
    told_once = {"options": first.options, "pooled": first.pooled}
    request = _request(group, first.method).model_copy(update=told_once)
    preserved = {prompt for part in group for prompt in part.request.preserve}
    erased = preserved.difference(request.preserve)
    if erased:
        warnings.warn(f"'{min(erased)}' was preserved by one eraser and is erased by another: erased.", stacklevel=4)
    started = time.perf_counter()
    apart = [split(uncertified(part)) for part in group]
    joined = join({stream: together([streams[stream] for streams in apart], request) for stream in apart[0]})
    told = {"seconds": {"solve": time.perf_counter() - started}, "composed": _told(group)}
    made = replace(joined, base=_base(group), provenance={**joined.provenance, **told})
    return certify_again(made, group)


def _settings(eraser: Eraser) -> Hashable | None:
    """What erasers must agree in to be solved again together; None for one that never is."""
    if eraser.method not in METHODS.names():
        return None
    method = METHODS.get(eraser.method)
    if method.together is None:
        return None
    options = method.config.model_validate(eraser.request.options).model_dump_json()
    return method.name, options, eraser.request.goal, tuple(split(eraser))


def _side_by_side(parts: Sequence[Eraser]) -> Eraser:
    composed = Eraser(
        request=_request(parts, COMPOSED),
        edits=tuple(edit for part in parts for edit in part.edits),
        base=_base(parts),
        provenance={"settings": {}, "versions": versions(), "composed": _told(parts), "applied": _how(parts)},
        parts=tuple(parts),
    )
    return certify_again(composed, parts)


def _told(parts: Sequence[Eraser]) -> list[dict[str, object]]:
    return [{"method": part.method, "concepts": list(part.concepts), "hash": part.hash} for part in parts]


def _how(parts: Sequence[Eraser]) -> str:
    """How parts that stay apart act together."""
    weights = all(part.kind_of_edit == "weight" for part in parts)
    return "summed from the base" if weights else ORDERED


def _request(parts: Sequence[Eraser], method: str) -> Request:
    """All concepts of all parts, each once, and what they preserve but for those."""
    concepts: dict[str, Concept] = {}
    for part in parts:
        for concept in part.request.concepts:
            concepts.setdefault(concept.name.casefold(), concept)
    lists = [part.request.preserve for part in parts]
    prompts = lists[0] if all(listed == lists[0] for listed in lists) else tuple(dict.fromkeys(chain(*lists)))
    preserve = tuple(prompt for prompt in prompts if prompt.strip().casefold() not in concepts)
    skip = parts[0].request.clip_skip
    goal = "debias" if all(part.request.goal == "debias" for part in parts) else "erase"
    return Request(concepts=tuple(concepts.values()), preserve=preserve, method=method, goal=goal, clip_skip=skip)


def _base(parts: Sequence[Eraser]) -> Base:
    """The first part's base, with what all of them know theirs by."""
    first = parts[0].base
    known = dict.fromkeys(probe for part in reversed(parts) for probe in part.base.probes)
    streams = {stream for part in parts for stream in part.base.of_streams}
    found = {stream: _probed(parts, stream) for stream in streams}
    # Where a part knows less of the model than the others, only what all know is kept.
    probes = [probe for probe in known if all(probe in rows for rows in found.values())]
    if probes:
        tokens = {stream: torch.cat([rows[probe] for probe in probes]) for stream, rows in found.items()}
        first = replace(first, probes=tuple(probes), embeddings=tokens.pop(TEXT), streams=tokens)
    return replace(first, parameters={name: said for part in parts for name, said in part.base.parameters.items()})


def _probed(parts: Sequence[Eraser], stream: str) -> dict[str, torch.Tensor]:
    """What is known of the embeddings of one stream, by prompt."""
    rows: dict[str, torch.Tensor] = {}
    for part in reversed(parts):
        rows |= part.base.rows(stream)
    return rows
