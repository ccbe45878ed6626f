"""What a user gives a protocol beside the model, the erasers and the judge: prompts, pictures and settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from efface.errors import BadInput
from efface.files import sha256_of_file
from efface.judges.shared.questions import is_path
from efface.settings import Scalar

#: What a protocol may read: `--prompts` and `--data`.
Reads = Literal["prompts", "data"]


@dataclass(frozen=True)
class Inputs:
    """Each protocol says which of these it reads; all may be left out.

    Attributes:
        prompts: A file of prompts (`--prompts`).
        data: Pictures, a data set's folder or a file of statistics (`--data`).
        options: The protocol's own settings (`-s key=value`).
        trust_torchscript: Whether a TorchScript file that a setting names may run.
    """

    prompts: Path | None = None
    data: Path | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    trust_torchscript: bool = False

    def prompts_for(self, protocol: str) -> Path:
        """The file of prompts of a protocol that has none of its own.

        Raises:
            BadInput: There is none.
        """
        if self.prompts is None:
            raise BadInput(f"The protocol '{protocol}' brings no prompts of its own; give a file with --prompts.")
        return self.prompts

    def check_read(self, protocol: str, reads: Collection[Reads]) -> None:
        """Nothing given is silently left aside.

        Raises:
            BadInput: The protocol does not read what is given.
        """
        given: dict[Reads, Path | None] = {"prompts": self.prompts, "data": self.data}
        for name, path in given.items():
            if path is not None and name not in reads:
                raise BadInput(f"The protocol '{protocol}' reads no --{name}; leave it away.")

    def as_dict(self) -> dict[str, Any]:
        """What provenance says: names and the prompts' hash, but not where on a user's disk anything lies."""
        said: dict[str, Any] = {"options": {key: _name(value) for key, value in self.options.items()}}
        if self.prompts is not None:
            said["prompts"] = {"name": self.prompts.name, "hash": sha256_of_file(self.prompts)}
        if self.data is not None:
            said["data"] = self.data.name
        return said


def _name(value: Scalar) -> Scalar:
    """A setting; of the files in it, their names."""
    if not isinstance(value, str):
        return value
    kind, colon, rest = value.partition(":")
    files = [Path(part).name if is_path(part) else part for part in (rest if colon else kind).split(",")]
    return (kind + colon if colon else "") + ",".join(files)
