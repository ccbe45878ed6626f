"""`efface.fetch`: models and data sets from the Hugging Face hub, and models by URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.downloads import DownloadError, download, is_url, name_of, unpack
from efface.errors import FORCE, BadFile, BadInput
from efface.files import check_writable, made_folder
from efface.hub import CANVAS, I2P, I2P_FILE, UnreachableError, fetch_i2p, fetch_model, fetch_unlearncanvas

if TYPE_CHECKING:
    from efface.progress import Progress

FETCHED = ("models", "i2p", "unlearncanvas")
_CHECKPOINTS = (".ckpt", ".safetensors", ".pt", ".pth")


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


@none_is_not_given
def fetch(
    kind: str,
    name: str | None = None,
    *,
    out: Path | str | None = None,
    sample: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch a model into the hub's cache, a model by its URL, or a data set in the layout that its protocol reads.

    Example:
        >>> efface.fetch("models", "CompVis/stable-diffusion-v1-4")
        >>> model = efface.open_model("CompVis/stable-diffusion-v1-4")

    Args:
        kind: What to fetch: models, i2p or unlearncanvas.
        name: The name on the hub, or the URL of a model's checkpoint or ZIP archive; a data set has a default.
        out: The file or folder of a data set, of a checkpoint or of an archive's content; by default in the current
            folder. In a folder, a checkpoint has its name at the URL.
        sample: The number of prompts of i2p, or of pictures of unlearncanvas, to fetch; by default all.
        force: Whether an existing file may be replaced.
        progress: The progress callback.

    Raises:
        BadInput: The kind or the name is unknown, or the target cannot be written.
        UnreachableError: The hub or the server cannot be reached; the message says which files to place where instead.
    """
    if kind not in FETCHED:
        raise BadInput(f"Unknown '{kind}'; efface fetch brings {', '.join(FETCHED)}.")
    if sample is not None and sample < 1:
        raise BadInput(f"--sample {sample} fetches nothing; use at least 1.")
    if kind == "models":
        if not name:
            raise BadInput("Name the model, e.g. efface fetch models CompVis/stable-diffusion-v1-4.")
        if sample is not None:
            raise BadInput("A model has no sample; leave --sample out.")
        if is_url(name):
            return _model_by_url(name, out, force, progress)
        if out:
            raise BadInput("Models are stored in the hub's cache, where --model finds them by name; leave -o out.")
        return FetchResult(kind, fetch_model(name), f"--model {name}")
    if kind == "i2p":
        target = Path(out or I2P_FILE)
        check_writable(target, force)
        return FetchResult(kind, fetch_i2p(name or I2P, target, force, sample), f"--protocol i2p --prompts {target}")
    target = Path(out or "unlearncanvas")
    path = fetch_unlearncanvas(name or CANVAS, target, progress, sample)
    return FetchResult(kind, path, f"--protocol unlearncanvas --data {target}")


def _model_by_url(url: str, out: Path | str | None, force: bool, progress: Progress | None) -> FetchResult:
    """A checkpoint as a file, or the content of a ZIP archive as a folder."""
    file = name_of(url)
    if not file.lower().endswith((".zip", *_CHECKPOINTS)):
        raise BadInput(f"{url} is no checkpoint ({', '.join(_CHECKPOINTS)}) and no .zip archive.")
    is_archive = file.lower().endswith(".zip")
    target = Path(out or (file[: -len(".zip")] if is_archive else file))
    if not is_archive and (target.is_dir() or target.suffix.lower() not in _CHECKPOINTS):
        target = target / file  # a folder: a checkpoint is opened by the ending of its name
    archive = target.with_name(f"{target.name}.zip") if is_archive else target
    if is_archive and target.exists() and not force:
        raise BadFile(f"{target} already exists; pass {FORCE} to replace it, or choose another name.")
    with made_folder(archive.parent):
        check_writable(archive, force or is_archive)
        try:
            download(url, archive, progress)
        except DownloadError as error:
            place = f"place its content in {target}" if is_archive else f"place it at {target}"
            raise UnreachableError(
                f"{url} was not downloaded ({error}): download it, {place}, and pass --model {target}."
            ) from error
    if not is_archive:
        return FetchResult("models", target, f"--model {target}")
    unpack(archive, target)
    return FetchResult("models", target, f"--model {_model_in(target)}")


def _model_in(folder: Path) -> Path:
    """The first diffusers folder or checkpoint of an unpacked archive; the folder itself without one."""
    models = [path.parent for path in folder.rglob("model_index.json")]
    models = models or [path for path in folder.rglob("*") if path.suffix.lower() in _CHECKPOINTS]
    return min(models, default=folder)
