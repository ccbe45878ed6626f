"""Bringing models and data sets from the Hugging Face hub, or saying what to place where without it.

Nothing that is brought is run: of models, safetensors, configurations and tokenizers; of data sets, CSV and Parquet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile, BadInput
from efface.files import atomic

if TYPE_CHECKING:
    from efface.progress import Progress

HUB = "https://huggingface.co"
I2P, I2P_FILE = "AIML-TUDA/i2p", "i2p_benchmark.csv"
CANVAS = "OPTML-Group/UnlearnCanvas"
_MODEL = ("*.json", "*.txt", "*.model", "*.safetensors")
_TWICE = ("*.fp16*", "*non_ema*", "*.msgpack")
_CAPTION = re.compile(r"\s*an?\s+(.+?)\s+image\s+in\s+(.+?)\s+style\W*", re.IGNORECASE)


class UnreachableError(RuntimeError):
    """The hub cannot be reached, or does not give a file; the message says what to place where instead."""


def fetch_model(name: str) -> Path:
    """A model, into the hub's own cache, where `--model NAME` finds it.

    Raises:
        UnreachableError: It cannot be brought.
    """
    from huggingface_hub import snapshot_download

    def bring() -> str:
        found = snapshot_download(name, allow_patterns=[*_MODEL], ignore_patterns=[*_TWICE])
        if not any(Path(found).rglob("*.safetensors")):
            raise FileNotFoundError("it has no safetensors weights")
        return found

    place = f"place the files of {HUB}/{name} in a folder, as diffusers lays them out, and pass --model FOLDER"
    return Path(_brought(name, bring, place))


def fetch_i2p(name: str, target: Path, force: bool) -> Path:
    """I2P's prompts, as published.

    Raises:
        UnreachableError: They cannot be brought.
        BadFile: `target` cannot be written.
    """
    from huggingface_hub import hf_hub_download

    place = f"download {I2P_FILE} from {HUB}/datasets/{name}, place it at {target}, and pass --prompts {target}"
    found = _brought(name, lambda: hf_hub_download(name, I2P_FILE, repo_type="dataset"), place)
    with atomic(target, force) as temporary:
        temporary.write_bytes(Path(found).read_bytes())
    return target


def fetch_unlearncanvas(name: str, target: Path, progress: Progress | None = None) -> Path:
    """UnlearnCanvas' pictures, as `target/STYLE/OBJECT/NUMBER.jpg`; what is there already is not written again.

    Raises:
        UnreachableError: They cannot be brought.
        BadFile: `target` cannot be written, or what came is not the data set.
    """
    from huggingface_hub import snapshot_download

    place = (
        f"download the pictures of {HUB}/datasets/{name}, place them as {target}/STYLE/OBJECT/NUMBER.jpg, "
        f"and pass --data {target}"
    )
    found = _brought(name, lambda: snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]), place)
    shards = sorted(Path(found).rglob("*.parquet"))
    numbers: Counter[Path] = Counter()
    for index, shard in enumerate(shards):
        _unpack(shard, target, numbers)
        if progress:
            progress("pictures", index + 1, len(shards))
    if not numbers:
        raise BadFile(f"{name} holds no picture whose text says which object in which style; is it UnlearnCanvas?")
    return target


def _brought(name: str, bring: Callable[[], str], place: str) -> str:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    try:
        return bring()
    except HFValidationError as error:
        raise BadInput(f"'{name}' is not a name of the hub; write it as OWNER/NAME.") from error
    except GatedRepoError as error:
        raise UnreachableError(f"{name} is given to registered users: accept its terms, and set HF_TOKEN.") from error
    except Exception as error:
        # The hub's own message to those who are offline is about its options.
        lines = [] if isinstance(error, LocalEntryNotFoundError) else str(error).strip().splitlines()
        reason = next(iter(lines), "the hub cannot be reached").rstrip(".")
        raise UnreachableError(f"{name} was not brought ({reason}): {place}.") from error


def _unpack(shard: Path, target: Path, numbers: Counter[Path]) -> None:
    """Write the pictures of one file; `numbers` counts those of each cell."""
    import pyarrow.parquet as pq

    file: Any = pq.ParquetFile(shard)
    for batch in file.iter_batches(batch_size=16, columns=["image", "text"]):
        rows: Sequence[Mapping[str, Any]] = batch.to_pylist()
        for row in rows:
            said = _CAPTION.fullmatch(row["text"] or "")
            if not said or not row["image"] or not row["image"]["bytes"]:
                continue
            thing, style = (re.sub(r"\W+", "_", words.strip()) for words in said.groups())
            folder = target / style / thing
            numbers[folder] += 1
            picture = folder / f"{numbers[folder]}.jpg"
            if not picture.is_file():
                _write(picture, row["image"]["bytes"])


def _write(picture: Path, content: bytes) -> None:
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot write to {picture.parent}: {error.strerror}.") from error
    with atomic(picture) as temporary:
        temporary.write_bytes(content)
