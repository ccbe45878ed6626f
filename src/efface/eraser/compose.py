"""Several erasers as one.

- Erasers of one method with the same settings become the eraser that one request for all their concepts would have
  made: they are solved again together from what they stored, without a model.
- Weight edits are summed, each as it was solved from the base.
- The remaining ones are applied one after the other in the given order, with a warning: the text passes the first edit,
  then the second, which was solved for the unedited text.

The result of the last two retains its parts, so that concepts can be restored from each as from the part alone.
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
from efface.eraser.compatible import check_guides, check_parts, check_same_base, names_of
from efface.eraser.recommended import sources_of
from efface.eraser.record import Base, EraserRecord
from efface.eraser.streams import join, split
from efface.errors import BadRequest
from efface.methods import METHODS
from efface.methods.base import CannotCombine
from efface.methods.left_out import warn_left_out
from efface.models.model import TEXT
from efface.parsing import library_errors
from efface.provenance import versions
from efface.request.record import COMPOSED, Concept, Request

if TYPE_CHECKING:
    from torch import Tensor

ORDERED = "one after the other in this order"


def compose_records(erasers: Sequence[EraserRecord], force: bool = False) -> EraserRecord:
    """One eraser that does what all of them do.

    Args:
        erasers: At least one, in the order in which they are applied where the order matters.
        force: Compose erasers although they were made for different models.

    Raises:
        WrongBase: They were made for different models.
        BadRequest: There is none, they contradict each other, or they cannot act at the same time.
    """
    if not erasers:
        raise BadRequest("Nothing to compose: give at least one eraser.")
    if len(erasers) == 1:
        return erasers[0]
    parts = [part for eraser in erasers for part in eraser.parts or (eraser,)]
    for one, other in combinations(parts, 2):
        if one.hash == other.hash:
            raise BadRequest(f"The eraser of {names_of(one)} is given twice; give it once.")
        check_same_base(one, other, force)
    parts, reasons = _solve_together(parts)
    if len(parts) == 1:
        return parts[0]
    for one, other in combinations(parts, 2):
        check_parts(one, other)
    composed = side_by_side(parts)
    _warn_erased(parts, composed.request)
    applied = composed.provenance["applied"]
    if reasons or applied == ORDERED:
        order = ", then ".join(f"{part.method} ({names_of(part)})" for part in parts)
        reason = reasons[0] if reasons else "The erasers are of several methods or settings"
        warnings.warn(f"{reason}: {_APPLIED[applied]}, {order}.", stacklevel=3)
    return composed


_SUMMED = "summed from the base"
_APPLIED = {ORDERED: f"applied {ORDERED}", _SUMMED: _SUMMED}


def _solve_together(parts: Sequence[EraserRecord]) -> tuple[list[EraserRecord], list[str]]:
    """The parts with those of one method and settings as one, at the first one's place; why others were not solved."""
    groups: dict[Hashable, list[EraserRecord]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(_settings(part) or index, []).append(part)
    results, reasons = list[EraserRecord](), list[str]()
    for group in groups.values():
        if len(group) == 1:
            results += group
            continue
        try:
            with library_errors(f"What the erasers by {group[0].method} store does not fit together", CannotCombine):
                results.append(_combine(group))
        except CannotCombine as reason:
            if not reason.sum_is_exact:
                reasons.append(f"The erasers of {group[0].method} cannot be solved again together, as {reason}")
            results += group
    return results, reasons


def _combine(group: Sequence[EraserRecord]) -> EraserRecord:
    """The eraser that one request for the concepts of all would have made."""
    first, combine = group[0].request, METHODS.get(group[0].method).combine
    assert combine is not None
    check_guides([concept for part in group for concept in part.request.concepts])
    request = _request(group, first.method).model_copy(update={"options": first.options, "pooled": first.pooled})
    _warn_erased(group, request)
    started = time.perf_counter()
    parts = [split(uncertified(part)) for part in group]
    solutions = {stream: combine([part[stream] for part in parts], request) for stream in parts[0]}
    combined = join(solutions, _base(group))
    provenance = {
        **{key: value for key, value in combined.provenance.items() if key not in ("after", "solved_on")},
        **sources_of(group, request.names),
        "seconds": {"solve": time.perf_counter() - started},
        "composed": _summaries(group),
    }
    return certify_again(replace(combined, provenance=provenance), group)


def _settings(eraser: EraserRecord) -> Hashable | None:
    """What erasers must agree in to be solved together; None for an eraser that never is."""
    if eraser.method not in METHODS.names():
        return None
    method = METHODS.get(eraser.method)
    if method.combine is None:
        return None
    options = method.config.model_validate(eraser.request.options).model_dump_json()
    return method.name, options, eraser.request.goal, tuple(split(eraser))


def side_by_side(parts: Sequence[EraserRecord], named: Sequence[EraserRecord] | None = None) -> EraserRecord:
    """The eraser that holds these parts as they are.

    Args:
        parts: The parts, in the order in which their edits are applied.
        named: The parts in the order of their concepts, if that differs.
    """
    only_weights = all(part.kind_of_edit == "weight" for part in parts)
    composed = EraserRecord(
        request=_request(named or parts, COMPOSED),
        edits=tuple(edit for part in parts for edit in part.edits),
        base=_base(parts),
        provenance={
            "settings": {},
            "versions": versions(),
            "composed": _summaries(parts),
            "applied": _SUMMED if only_weights else ORDERED,
        },
        parts=tuple(parts),
    )
    return certify_again(composed, parts)


def _warn_erased(parts: Sequence[EraserRecord], request: Request) -> None:
    preserved = {prompt for part in parts for prompt in part.request.preserve}
    # An eraser that was solved after others preserves their concepts, which stay erased.
    earlier = {name for part in parts for one in part.provenance.get("after", ()) for name in one["concepts"]}
    erased = sorted(preserved.difference(request.preserve, earlier))
    warn_left_out("the composition", erased, "that another of the erasers erases", stacklevel=6)


def _summaries(parts: Sequence[EraserRecord]) -> list[dict[str, object]]:
    return [{"method": part.method, "concepts": list(part.concepts), "hash": part.hash} for part in parts]


def _request(parts: Sequence[EraserRecord], method: str) -> Request:
    """All concepts of all parts, each once, and the preserved prompts of all except those."""
    concepts: dict[str, Concept] = {}
    for part in parts:
        for concept in part.request.concepts:
            concepts.setdefault(concept.name.casefold(), concept)
    lists = [part.request.preserve for part in parts]
    prompts = lists[0] if all(prompts == lists[0] for prompts in lists) else tuple(dict.fromkeys(chain(*lists)))
    preserve = tuple(prompt for prompt in prompts if prompt.strip().casefold() not in concepts)
    skip = parts[0].request.clip_skip
    goal = "debias" if all(part.request.goal == "debias" for part in parts) else "erase"
    return Request(concepts=tuple(concepts.values()), preserve=preserve, method=method, goal=goal, clip_skip=skip)


def _base(parts: Sequence[EraserRecord]) -> Base:
    """The first part's base, with the probes and parameters of all."""
    first = parts[0].base
    all_probes = dict.fromkeys(probe for part in reversed(parts) for probe in part.base.probes)
    streams = {stream for part in parts for stream in part.base.of_streams}
    rows_of = {stream: _rows(parts, stream) for stream in streams}
    # Where a part has fewer streams than the others, only probes that are known in all streams remain.
    probes = [probe for probe in all_probes if all(probe in rows for rows in rows_of.values())]
    if probes:
        tokens = {stream: torch.cat([rows[probe] for probe in probes]) for stream, rows in rows_of.items()}
        first = replace(first, probes=tuple(probes), embeddings=tokens.pop(TEXT), streams=tokens)
    digests = {name: of_one for part in parts for name, of_one in part.base.parameters.items()}
    return replace(first, parameters=digests)


def _rows(parts: Sequence[EraserRecord], stream: str) -> dict[str, Tensor]:
    """The embeddings of the probes of all parts in one stream, (text encoders, d), by prompt; the first part's win."""
    rows: dict[str, Tensor] = {}
    for part in reversed(parts):
        rows |= part.base.rows(stream)
    return rows
