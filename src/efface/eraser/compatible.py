"""Checks whether erasers can be composed: the same model, no contradicting goals, and edits that can act together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from efface.edits.kinds import GuardEdit, TextEdit, WeightEdit
from efface.eraser.record import EraserRecord
from efface.errors import FORCE, BadRequest, WrongBase
from efface.models.text.embedded import embedding_margin
from efface.request.record import Concept

_SAME_GRAM = 1e-3  # relative: weights rounded to half precision have the same S to 1e-4 or so


def check_same_base(one: EraserRecord, other: EraserRecord, force: bool) -> None:
    """Check that two erasers were made for the same model, as far as their records show.

    Args:
        one: An eraser.
        other: Another one.
        force: Whether to accept different models, if their text widths agree.

    Raises:
        BadRequest: The erasers were made with different clip_skip.
        WrongBase: The erasers were made for different models.
    """
    models = f"{one.base.model} (for {names_of(one)}) and {other.base.model} (for {names_of(other)})"
    sizes = [{edit.stream: edit.dim for edit in eraser.edits if isinstance(edit, TextEdit)} for eraser in (one, other)]
    if any(sizes[1].get(stream, width) != width for stream, width in sizes[0].items()):
        raise WrongBase(f"The erasers were made for text of different widths, {models}; they cannot be composed.")
    if one.request.clip_skip != other.request.clip_skip:
        raise BadRequest(
            f"The erasers of {names_of(one)} and {names_of(other)} were made with different clip_skip "
            f"({one.request.clip_skip} and {other.request.clip_skip}); erase both with one."
        )
    if not force and not _is_same(one, other):
        raise WrongBase(
            f"The erasers were made for different models, {models}; "
            f"erase all concepts with one of them, or pass {FORCE} to compose anyway."
        )


def _is_same(one: EraserRecord, other: EraserRecord) -> bool:
    mine, theirs = one.base, other.base
    for name in mine.parameters.keys() & theirs.parameters.keys():
        if not mine.parameters[name].items() & theirs.parameters[name].items():
            return False
    if "S" in one.inputs and "S" in other.inputs:
        gram = one.inputs["S"]
        if (other.inputs["S"] - gram).norm() > _SAME_GRAM * gram.norm():
            return False
    if mine.family != theirs.family:
        return False
    fits: list[bool] = []
    for stream in mine.of_streams:
        known = theirs.rows(stream)
        shared = [(rows, known[probe]) for probe, rows in mine.rows(stream).items() if probe in known]
        fits += [
            float((rows - others).norm() / rows.norm()) <= embedding_margin(rows, others) for rows, others in shared
        ]
    return mine.hash == theirs.hash or (bool(fits) and all(fits))


def check_parts(one: EraserRecord, other: EraserRecord) -> None:
    """Check that two erasers that are not merged can act on one model.

    Raises:
        BadRequest: They contradict or disturb each other.
    """
    shared = {name.casefold() for name in one.concepts} & {name.casefold() for name in other.concepts}
    if shared and one.request.goal != other.request.goal:
        raise BadRequest(
            f"'{min(shared)}' is erased by one eraser and debiased by another; take it out of one: "
            f"efface compose ERASER --without '{min(shared)}' -o FILE."
        )
    if shared and one.method == other.method:
        raise BadRequest(
            f"'{min(shared)}' is erased by two erasers of {one.method} that cannot be solved again together; "
            "use one of them."
        )
    if _guards(one) and _guards(other):
        raise BadRequest(
            f"{one.method} ({names_of(one)}) and {other.method} ({names_of(other)}) both act while the model "
            "runs, and would disturb each other; erase all concepts by one of them in one request."
        )
    for text, encoder in ((one, other), (other, one)):
        if text.edits_text and _edits_encoder(encoder):
            raise BadRequest(
                f"{text.method} ({names_of(text)}) edits text embeddings, and {encoder.method} "
                f"({names_of(encoder)}) the text encoder before them; both were solved for the unedited model, "
                "so use only one of them."
            )


def _guards(eraser: EraserRecord) -> bool:
    return any(isinstance(edit, GuardEdit) for edit in eraser.edits)


def _edits_encoder(eraser: EraserRecord) -> bool:
    return any(isinstance(edit, WeightEdit) and edit.parameter.startswith("text_encoder") for edit in eraser.edits)


def check_guides(concepts: Sequence[Concept]) -> None:
    """Check that a concept of two erasers has the same guide, kind and attributes in both.

    Raises:
        BadRequest: It differs.
    """
    for one, other in combinations(concepts, 2):
        if one.name.casefold() != other.name.casefold():
            continue
        fix = f"take it out of one: efface compose ERASER --without '{one.name}' -o FILE."
        if (one.guide, one.kind) != (other.guide, other.kind):
            raise BadRequest(
                f"'{one.name}' is erased as {one.kind} towards '{one.guide or ''}' by one eraser, and as {other.kind} "
                f"towards '{other.guide or ''}' by another; {fix}"
            )
        if one.attributes != other.attributes:
            raise BadRequest(
                f"'{one.name}' is debiased to {_shares(one)} by one eraser, and to {_shares(other)} by another; {fix}"
            )


def _shares(concept: Concept) -> str:
    return ", ".join(f"{attribute} {share:.0%}" for attribute, share in concept.attributes.items())


def names_of(eraser: EraserRecord) -> str:
    """The concepts of an eraser for a message: up to three, and how many more."""
    names = [f"'{name}'" for name in eraser.concepts[:3]]
    return ", ".join(names) + (f" and {len(eraser.concepts) - 3} more" if len(eraser.concepts) > 3 else "")
