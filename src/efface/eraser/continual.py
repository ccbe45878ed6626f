"""Erasing concepts from a model that erasers have edited already (`efface erase --after`), as one eraser.

`Method.after` says how a method does this:

- `edited`: it solves on the edited model. The edits of the earlier erasers are in the weights while it solves,

      W' = (W + delta) (I + D),

  so that every method works in terms of the current weights. A new text edit D2 gives W' (I + D2): the text passes the
  new edit before the earlier ones. A new weight edit gives W' + delta2; where the earlier erasers edit the text that
  the same weight reads, their edit is therefore stored as a change (W + delta) D of the weight.
- `separate`: it solves on the base, and protects the earlier concepts itself, so that the sum of all changes is exact
  and each concept can be restored. If an earlier eraser is of another method, it solves on the edited model.

Methods that preserve prompts preserve the names of the earlier concepts. The result has the earlier erasers and the new
one as parts, and fits the unedited model.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.apply.bake import Baked, bake_edits, summed
from efface.edits.composition import by_stream
from efface.edits.kinds import GuardEdit, TextEdit, WeightEdit
from efface.eraser.base_check import check_base, with_parameters
from efface.eraser.compose import compose_records, side_by_side
from efface.eraser.file import write_record
from efface.eraser.solve import Tools, record_of_step, solve_request
from efface.errors import BadRequest
from efface.methods import METHODS
from efface.request.record import COMPOSED, Request, folded

if TYPE_CHECKING:
    from efface.edits.solution import Solution
    from efface.eraser.record import EraserRecord
    from efface.methods.base import Method
    from efface.models.model import Model


def solve_after(
    model: Model,
    request: Request,
    earlier: Sequence[EraserRecord],
    tools: Tools | None = None,
    notes: Mapping[str, Any] | None = None,
) -> EraserRecord:
    """Make the record of an eraser that erases what earlier erasers erase, and further concepts.

    Args:
        model: The unedited model. It is edited while the method solves, and restored bit for bit.
        request: The further concepts.
        earlier: The earlier erasers, at least one.
        tools: As for `solve_request`.
        notes: Further entries of the provenance.

    Raises:
        BadInput: The method does not support this, the erasers do not fit, or the request cannot be carried out.
    """
    method = METHODS.get(request.method)
    check_after(method, request, earlier)
    for eraser in earlier:
        check_base(eraser, model)
    before = compose_records(earlier)
    is_separate = method.after == "separate" and all(part.method == method.name for part in _parts(before))
    steps = _Continuation(model, before, _summaries(earlier), "base" if is_separate else "edited")
    request = with_protected(request, before.concepts)
    if is_separate:
        return steps.joined(
            solve_request(model, request, {**(tools or {}), "write_snapshot": lambda: steps.write}, notes)
        )
    with steps.edited():
        solved = solve_request(model, request, {**(tools or {}), "write_snapshot": lambda: steps.write}, notes)
    return steps.joined(solved)


def check_after(method: Method, request: Request, earlier: Sequence[EraserRecord]) -> None:
    """Reject requests that no model with earlier erasers can carry out.

    Args:
        method: The method of the request.
        request: The further concepts.
        earlier: The earlier erasers.

    Raises:
        BadRequest: The method does not support it, a goal is not to erase, an eraser is a guard, or a concept is
            erased already.
    """
    if method.after is None:
        raise BadRequest(
            f"{method.name} cannot erase after other erasers, because it acts while the model runs; leave --after out "
            "and compose the erasers, or choose another method."
        )
    if request.goal != "erase" or any(concept.attributes for one in earlier for concept in one.request.concepts):
        raise BadRequest("--after continues erasing; a request or an eraser that debiases cannot be continued.")
    for eraser in earlier:
        if any(isinstance(edit, GuardEdit) for edit in eraser.edits):
            raise BadRequest(
                f"The eraser of '{eraser.concepts[0]}' acts while the model runs, so nothing can be erased after it; "
                "erase that concept by a method that changes weights or text."
            )
        for name in request.names:
            if folded(name) in map(folded, eraser.concepts):
                raise BadRequest(f"'{name}' is erased already by an eraser of --after; leave it out.")


def with_protected(request: Request, concepts: Sequence[str]) -> Request:
    """The request with these concepts among its preserved prompts, if its method preserves prompts.

    Args:
        request: The request.
        concepts: Names of concepts that are erased already.
    """
    if not METHODS.get(request.method).uses_preserve:
        return request
    return request.model_copy(update={"preserve": tuple(dict.fromkeys([*request.preserve, *concepts]))})


class _Continuation:
    """A model that earlier erasers edit while a method solves, and the composition of its result with them.

    Args:
        model: The model.
        before: The earlier erasers as one.
        summaries: What the provenance records of each of them.
        solved_on: "base" or "edited".
    """

    def __init__(
        self, model: Model, before: EraserRecord, summaries: Sequence[Mapping[str, Any]], solved_on: str
    ) -> None:
        self._model, self._before, self._baked = model, before, Baked()
        self._notes = {"after": [dict(summary) for summary in summaries], "solved_on": solved_on}

    @contextmanager
    def edited(self) -> Generator[None, None, None]:
        """The earlier edits are in the model's weights."""
        self._baked = bake_edits(self._before.edits, self._model)
        try:
            yield
        finally:
            self._baked.undo()

    def write(self, solution: Solution, path: Path) -> None:
        """Write the composed eraser of an intermediate step; the model is unedited meanwhile."""
        is_edited = len(self._baked) > 0
        self._baked.undo()
        try:
            write_record(self.joined(record_of_step(self._model, solution)), path, force=True)
        finally:
            if is_edited:
                self._baked = bake_edits(self._before.edits, self._model)

    def joined(self, solved: EraserRecord) -> EraserRecord:
        """The earlier erasers and the new one as parts of one eraser of the unedited model."""
        new = _rebased(replace(solved, provenance={**solved.provenance, **self._notes}), self._model)
        before = _as_weight_edits(self._before, self._model) if _share_weights(self._before, new) else self._before
        parts = (new, *_parts(before))
        composed = side_by_side(parts, named=(*_parts(before), new))
        return replace(composed, provenance={**composed.provenance, **self._notes, "applied": _APPLIED})


_APPLIED = "the last concepts were erased after the others"


def _parts(eraser: EraserRecord) -> tuple[EraserRecord, ...]:
    return eraser.parts or (eraser,)


def _summaries(erasers: Sequence[EraserRecord]) -> list[dict[str, Any]]:
    return [{"method": one.method, "concepts": list(one.concepts), "hash": one.hash} for one in erasers]


def _rebased(eraser: EraserRecord, model: Model) -> EraserRecord:
    """The eraser with the unedited model as its base."""
    base, skip = eraser.base, eraser.request.clip_skip
    if base.probes:
        tokens = {
            stream: model.reading(stream).embed(base.probes, clip_skip=skip, truncate=True).last_tokens
            for stream in base.of_streams
        }
        base = replace(base, embeddings=tokens.pop("text"), streams=tokens)
    return with_parameters(replace(eraser, base=base), model)


def _share_weights(before: EraserRecord, new: EraserRecord) -> bool:
    """Whether the new eraser changes a weight that reads the text which the earlier erasers edit."""
    return before.edits_text and any(
        isinstance(edit, WeightEdit) and edit.parameter.startswith("denoiser.") for edit in new.edits
    )


def _as_weight_edits(eraser: EraserRecord, model: Model) -> EraserRecord:
    """The eraser with its text edits as changes of the weights that read the text; it cannot be split any more."""
    weight_edits = [edit for edit in eraser.edits if isinstance(edit, WeightEdit)]
    edits: list[WeightEdit] = list(weight_edits)
    for stream, edit in by_stream(edit for edit in eraser.edits if isinstance(edit, TextEdit)).items():
        for name, unedited in model.weights("denoiser", model.reading(stream).text_parameters()):
            parameter = f"denoiser.{name}"
            deltas = [delta for delta in weight_edits if delta.parameter == parameter]
            weight = summed(deltas, unedited.double()).cpu()
            edits.append(WeightEdit(parameter, (weight @ edit.left).float(), edit.right.T.float().contiguous()))
    request = eraser.request.model_copy(update={"method": COMPOSED, "options": {}})
    provenance = {**eraser.provenance, "text_edits": "stored as changes of the weights that read the text"}
    as_weights = replace(eraser, request=request, edits=tuple(edits), inputs={}, provenance=provenance, parts=())
    return with_parameters(as_weights, model)
