"""`efface.fetch`: models and data sets from the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface.api.result import VerbResult
from efface.errors import BadInput
from efface.files import check_writable
from efface.hub import CANVAS, I2P, I2P_FILE, fetch_i2p, fetch_model, fetch_unlearncanvas

if TYPE_CHECKING:
    from efface.progress import Progress

FETCHED = ("models", "i2p", "unlearncanvas")


@dataclass(frozen=True)
class FetchResult(VerbResult):
    """A fetched model or data set.

    Attributes:
        kind: What to fetch: models, i2p or unlearncanvas.
        path: The file or folder.
        use: The options of a command that use it.
    """

    kind: str
    path: Path
    use: str


def fetch(
    kind: str,
    name: str | None = None,
    *,
    out: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch a model into the hub's cache, or a data set in the layout that its protocol reads.

    Example:
        >>> efface.fetch("models", "CompVis/stable-diffusion-v1-4")
        >>> model = efface.open_model("CompVis/stable-diffusion-v1-4")

    Args:
        kind: What to fetch: models, i2p or unlearncanvas.
        name: The name on the hub; a data set has a default.
        out: The file or folder of a data set; by default in the current folder.
        force: Whether an existing file may be replaced.
        progress: The progress callback.

    Raises:
        BadInput: The kind or the name is unknown, or the target cannot be written.
        UnreachableError: The hub cannot be reached; the message says which files to place where instead.
    """
    if kind not in FETCHED:
        raise BadInput(f"Unknown '{kind}'; efface fetch brings {', '.join(FETCHED)}.")
    if kind == "models":
        if not name:
            raise BadInput("Name the model, e.g. efface fetch models CompVis/stable-diffusion-v1-4.")
        if out:
            raise BadInput("Models are stored in the hub's cache, where --model finds them by name; leave -o out.")
        return FetchResult(kind, fetch_model(name), f"--model {name}")
    if kind == "i2p":
        target = Path(out or I2P_FILE)
        check_writable(target, force)
        return FetchResult(kind, fetch_i2p(name or I2P, target, force), f"--protocol i2p --prompts {target}")
    target = Path(out or "unlearncanvas")
    path = fetch_unlearncanvas(name or CANVAS, target, progress)
    return FetchResult(kind, path, f"--protocol unlearncanvas --data {target}")
