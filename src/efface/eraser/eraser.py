"""The eraser: what was solved, for which base, and how to put it on a model and take it off again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from efface.edits.kinds import Edit, TextEdit, ValueGuard, describe
from efface.errors import BadInput
from efface.files import sha256_of_tensors
from efface.models.model import TEXT
from efface.request.record import Request

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.apply.attachment import Attachment
    from efface.apply.bake import Baked
    from efface.methods.base import KindOfEdit
    from efface.models.model import Model


@dataclass(frozen=True, eq=False)
class Base:
    """The model an eraser was made for, known by how its text encoder embeds a few prompts.

    Attributes:
        model: what it was opened by.
        family: its family.
        hash: SHA-256 of its text encoder's weights, for the record.
        probes: the prompts.
        embeddings: the last subject token of each, (len(probes), d), or of each text encoder's tokens, one prompt's
            after the other; empty for an eraser that edits no text.
        parameters: of each parameter that a weight edit changes, the SHA-256 by the type it was rounded to (see
            `efface.eraser.base`).
        streams: the same as `embeddings` for the model's other text streams, as far as they are edited.
    """

    model: str
    family: str
    hash: str
    probes: tuple[str, ...]
    embeddings: Tensor
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    streams: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def of_streams(self) -> dict[str, Tensor]:
        """The probes' embeddings by text stream."""
        return {TEXT: self.embeddings, **self.streams}

    def rows(self, stream: str) -> dict[str, Tensor]:
        """Each probe's embeddings in one stream, (1 a text encoder, d); none of a stream that is not known."""
        tokens = self.of_streams.get(stream)
        if tokens is None or not self.probes:
            return {}
        return dict(zip(self.probes, tokens.unflatten(0, (len(self.probes), -1)), strict=True))

    @cached_property
    def key(self) -> str:
        """SHA-256 of the probes and their embeddings: equal for bases that a model is checked against alike."""
        return sha256_of_tensors({"\0".join((stream, *self.probes)): rows for stream, rows in self.of_streams.items()})


@dataclass(frozen=True, eq=False)
class Eraser:
    """An edit that makes a model forget, with all that is needed to take parts of it back.

    Attributes:
        request: what was asked for.
        edits: what is changed.
        base: the model it was made for.
        inputs: what solving again for fewer concepts needs, float64.
        provenance: versions, resolved settings, seconds.
        parts: the erasers that it was composed of, where they could not be made one; its edits are theirs, in order.

    Raises:
        BadInput: some number in it is not finite.
    """

    request: Request
    edits: tuple[Edit, ...]
    base: Base
    inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parts: tuple[Eraser, ...] = ()

    def __post_init__(self) -> None:
        made = [tensor for edit in self.edits for tensor in edit.tensors().values()]
        held = (*made, *self.inputs.values(), *self.base.of_streams.values())
        if not all(bool(tensor.isfinite().all()) for tensor in held):
            raise BadInput(
                f"An eraser by {self.method} would hold numbers that are not finite, so there is none; the model's "
                "weights are damaged, or the settings let something overflow."
            )

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of what it erases."""
        return self.request.names

    @property
    def method(self) -> str:
        """Name of the method that made it."""
        return self.request.method

    @property
    def kind_of_edit(self) -> KindOfEdit:
        """ "text" if it edits nothing but text embeddings, "guard" if some of it acts only while the model runs, else
        "weight".
        """
        if any(isinstance(edit, ValueGuard) for edit in self.edits):
            return "guard"
        return "text" if all(isinstance(edit, TextEdit) for edit in self.edits) else "weight"

    @property
    def rank(self) -> int:
        """The largest rank among its edits."""
        return max((edit.rank for edit in self.edits), default=0)

    @property
    def nbytes(self) -> int:
        """Size of the edits alone, without what restoring needs."""
        return sum(edit.nbytes for edit in self.edits)

    @property
    def certificate(self) -> dict[str, dict[str, float | None]] | None:
        """By concept, `free`, `text` and `ceiling` of `efface.eraser.certificate`; None while it was not certified."""
        return self.provenance.get("certificate", {}).get("concepts")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the edits: equal for erasers that do the same to a model."""
        # Edits of one thing are told apart by their order; those of different things may come in any.
        named: dict[str, Tensor] = {}
        seen: Counter[str] = Counter()
        for edit in self.edits:
            what = str(describe(edit))
            named |= {f"{seen[what]}:{what}:{name}": tensor for name, tensor in edit.tensors().items()}
            seen[what] += 1
        return sha256_of_tensors(named)

    def save(self, path: Path | str, force: bool = False) -> None:
        """Write one safetensors file.

        Raises:
            BadFile: the file exists and `force` is false, or it cannot be written.
        """
        from efface.eraser.file import write_eraser

        write_eraser(self, Path(path), force)

    @classmethod
    def load(cls, path: Path | str) -> Eraser:
        """Read what `save` wrote, bit for bit.

        Raises:
            BadFile: the file is missing, cut short, altered, or not an eraser.
        """
        from efface.eraser.file import read_eraser

        return read_eraser(Path(path))

    def attach(self, target: Model | DiffusionPipeline, strength: float = 1.0, force: bool = False) -> Attachment:
        """Make `target` forget until the returned attachment is detached, or left as a context.

        Args:
            target: a model, or any diffusers pipeline with the base's text encoder.
            strength: how far to go: 0 changes nothing, 1 is what was solved for.
            force: attach although the text encoder is another one.

        Raises:
            WrongBase: the target's text encoder does not embed the probes as the base's did, or a weight that is
                edited is another one.
        """
        from efface.apply.attachment import attach

        return attach(self, target, strength, force)

    def bake(self, target: Model | DiffusionPipeline, force: bool = False) -> Baked:
        """Write the edit into `target`'s weights; the result's `undo` restores the originals bitwise.

        Raises:
            WrongBase: as for `attach`.
            BadInput: the target has a LoRA loaded, or the eraser acts only while the model runs.
        """
        from efface.apply.bake import bake

        return bake(self, target, force)

    def only(self, *names: str, model: Model | DiffusionPipeline | str | None = None) -> Eraser:
        """The eraser of these concepts alone, as if the others had never been asked for.

        Args:
            *names: the concepts.
            model: the model it was made for, unedited: read by methods that stored too little to do without it.

        Raises:
            BadRequest: a name is not in the eraser, none is left, or the method erased them jointly.
            NeedsModel: it takes the model, and none is given.
        """
        from efface.eraser.restore import only

        return only(self, names, model)

    def without(self, *names: str, model: Model | DiffusionPipeline | str | None = None) -> Eraser:
        """The eraser with these concepts restored."""
        self.request.keeping(names)
        gone = {name.strip().casefold() for name in names}
        return self.only(*(name for name in self.concepts if name.casefold() not in gone), model=model)
