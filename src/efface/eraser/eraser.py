"""The eraser: a record with verbs. It attaches to a model, restores concepts, and is saved to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efface.eraser.attach import attach, bake
from efface.eraser.compose import compose_records
from efface.eraser.file import read_record, write_record
from efface.eraser.record import EraserRecord
from efface.eraser.restore import only_concepts
from efface.files import check_suffix
from efface.request.record import folded

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from efface.apply.attachment import Attachment
    from efface.apply.bake import Baked
    from efface.models.model import Model


_SHOWN = 5  # concepts


class Eraser(EraserRecord):
    """An edit that makes a model forget concepts, with everything that is needed to restore some of them.

        eraser = efface.erase("emoji", ["cat", "horse"], to=["dog", "house"])
        with eraser.attach(pipe):
            pipe("a cat").images[0]
        eraser.without("cat").save("horse.safetensors")

    `EraserRecord` documents its fields.
    """

    parts: tuple[Eraser, ...]

    @classmethod
    def of(cls, record: EraserRecord) -> Eraser:
        """The eraser with the data of a record."""
        if isinstance(record, cls):
            return record
        eraser = cls.__new__(cls)
        eraser.__dict__.update(vars(record), parts=tuple(cls.of(part) for part in record.parts))
        return eraser

    def __repr__(self) -> str:
        more = len(self.concepts) - _SHOWN
        names = ", ".join(self.concepts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        size = f"rank {self.rank}, {self.nbytes:,} bytes"
        return f"<Eraser of {names}: {self.method}, {self.kind_of_edit} edit of {size}, for {self.base.model}>"

    def save(self, path: Path | str, force: bool = False) -> None:
        """Write one safetensors file.

        Raises:
            BadFile: The file exists and `force` is false, it cannot be written, or its name does not end as those of
                its format do.
        """
        check_suffix(Path(path), ".safetensors")
        write_record(self, Path(path), force)

    @classmethod
    def load(cls, path: Path | str) -> Eraser:
        """Read a file that `save` wrote, bit for bit.

        Raises:
            BadFile: The file is missing, truncated, altered, or not an eraser.
        """
        return cls.of(read_record(Path(path)))

    def attach(self, target: Model | DiffusionPipeline, strength: float = 1.0, force: bool = False) -> Attachment:
        """Make `target` forget until the returned attachment is detached, or its context is left.

        Args:
            target: A model, or any diffusers pipeline with the base's text encoder.
            strength: 0 changes nothing, 1 applies the edits as they were solved.
            force: Attach although the text encoder is another one.

        Raises:
            WrongBase: The target's text encoder does not embed the probes as the base's did, or an edited weight is
                another one.
        """
        return attach(self, target, strength, force)

    def bake(self, target: Model | DiffusionPipeline, force: bool = False) -> Baked:
        """Write the edits into `target`'s weights; `undo` of the result restores the originals bit for bit.

        Raises:
            WrongBase: As for `attach`.
            BadInput: The target has a LoRA loaded, or the eraser acts only while the model runs.
        """
        return bake(self, target, force)

    def only(self, *names: str, model: Model | DiffusionPipeline | str | None = None) -> Eraser:
        """The eraser of these concepts alone, as if the others had never been erased.

        Args:
            *names: The concepts that stay erased.
            model: The unedited model that it was made for; needed by methods that stored too little.

        Raises:
            BadRequest: A name is not in the eraser, none is left, or its concepts were erased jointly.
            NeedsModel: The method needs the model, and none is given.
        """
        return Eraser.of(only_concepts(self, names, model))

    def without(self, *names: str, model: Model | DiffusionPipeline | str | None = None) -> Eraser:
        """The eraser with these concepts restored.

        Args:
            *names: The concepts to restore.
            model: As for `only`.

        Raises:
            BadRequest: As for `only`.
            NeedsModel: As for `only`.
        """
        self.request.keeping(names)
        restored = {folded(name) for name in names}
        return self.only(*(name for name in self.concepts if folded(name) not in restored), model=model)


def compose_erasers(*erasers: Eraser, force: bool = False) -> Eraser:
    """One eraser that does what all of them do.

    Args:
        *erasers: In the order in which they are applied where the order matters.
        force: Compose erasers although they were made for different models.

    Raises:
        WrongBase: They were made for different models.
        BadRequest: They contradict each other, or cannot act at the same time.
    """
    return Eraser.of(compose_records(erasers, force))
