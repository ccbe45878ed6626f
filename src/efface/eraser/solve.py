"""From a model and a request to the record of an eraser: everything that is the same for all methods."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.eraser.base_check import base_of, with_parameters
from efface.eraser.file import write_record
from efface.eraser.record import EraserRecord
from efface.eraser.streams import join
from efface.errors import BadRequest
from efface.methods import METHODS
from efface.methods.closed_form.capacity import warn_beyond_capacity
from efface.models.model import TEXT
from efface.provenance import versions

if TYPE_CHECKING:
    from efface.edits.solution import Solution
    from efface.methods.base import Method, Tool
    from efface.models.model import Model
    from efface.request.record import Request

_FAMILY_NAMES = {"sd": "Stable Diffusion 1.x and 2.x"}

Tools = Mapping["Tool", Callable[[], Any]]


def solve_request(
    model: Model, request: Request, tools: Tools | None = None, notes: Mapping[str, Any] | None = None
) -> EraserRecord:
    """Make the record of an eraser; the model stays as it is.

    Args:
        model: The model, unedited.
        request: What to erase, by which method.
        tools: Functions that make the tools which methods need, by name; `write_snapshot` is added if it is missing.
        notes: Further entries of the provenance.

    Raises:
        BadInput: The request cannot be carried out; the message says what to change.
    """
    method = METHODS.get(request.method)
    settings = method.config.model_validate(request.options)
    check_request(method, request, model)
    available: dict[Tool, Callable[[], Any]] = {
        "write_snapshot": lambda: partial(_write_snapshot, model),
        **(tools or {}),
    }
    given = {name: available[name]() for name in method.needs}
    model.hash_ahead("text_encoder")
    # Guards, trained methods and debiasing solve once, for the stream of the tokens. Any other method solves once per
    # text stream, unless the request leaves the pooled embedding alone.
    tokens_only = method.edit == "guard" or method.trained or request.goal == "debias" or not request.pooled
    runtime = {"runtime": facts} if (facts := model.runtime.facts(model.dtype)) else {}
    solutions: dict[str, Solution] = {}
    embeddings: dict[str, Any] = {}
    base = None
    for stream in [TEXT] if tokens_only else model.streams:
        started = time.perf_counter()
        solution = method.erase(model.reading(stream), request, settings, **given)
        assert solution.embedded is not None
        warn_beyond_capacity(model.reading(stream), request, solution.edits, method.uses_guides)
        of_stream = base_of(model.reading(stream), solution.embedded)
        seconds = {"embed": time.perf_counter() - started - solution.solve_seconds, "solve": solution.solve_seconds}
        solutions[stream] = replace(solution, notes={**_provenance(solution, seconds), **runtime, **(notes or {})})
        if base is None:
            base = of_stream
        else:
            embeddings[stream] = of_stream.embeddings
    assert base is not None
    return with_parameters(join(solutions, replace(base, streams=embeddings)), model)


def check_request(method: Method, request: Request, model: Model) -> None:
    """Reject what a method declares that it cannot do, and warn of what it does not use.

    Args:
        method: The method.
        request: The request.
        model: The model.

    Raises:
        BadRequest: The method does not support the goal or the family of the model.
    """
    if request.goal not in method.goals:
        raise BadRequest(f"{method.name} cannot {request.goal} yet; the goal must be '{method.goals[0]}'.")
    if method.families is not None and model.family not in method.families:
        supported = ", ".join(_FAMILY_NAMES.get(family, family) for family in method.families)
        raise BadRequest(
            f"{method.name} supports {supported}; {model.name} is of the family {model.family}. "
            "Use uce or certified, which support every family."
        )
    guides = [concept.guide for concept in request.concepts if concept.guide]
    if guides and not method.uses_guides:
        warnings.warn(f"{method.name} has no guides; '{guides[0]}' does not change its result.", stacklevel=4)
    if request.preserve and not method.uses_preserve:
        warnings.warn(
            f"{method.name} has no preserve list; '{request.preserve[0]}' is not protected by it.", stacklevel=4
        )


def _provenance(solution: Solution, seconds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The provenance of a new solution: settings, versions of the libraries, seconds, and its other notes."""
    notes = dict(solution.notes)
    timed = {} if seconds is None else {"seconds": dict(seconds)}
    return {"settings": dict(notes.pop("settings")), "versions": versions(), **timed, **notes}


def _write_snapshot(model: Model, solution: Solution, path: Path) -> None:
    write_record(with_parameters(record_of_step(model, solution), model), path, force=True)


def record_of_step(model: Model, solution: Solution) -> EraserRecord:
    """The record of a solution that a training has at one of its steps, without the digests of weights.

    Args:
        model: The model.
        solution: The solution.
    """
    assert solution.embedded is not None
    return join({TEXT: replace(solution, notes=_provenance(solution))}, base_of(model, solution.embedded))
