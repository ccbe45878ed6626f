"""Downloads models and data sets from the Hugging Face hub; without the hub, the error says what to place where.

No downloaded file is executed: models are safetensors, configurations and tokenizers, data sets are CSV and Parquet.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile, BadInput
from efface.files import atomic, read_text, why_not_written

if TYPE_CHECKING:
    from efface.progress import Progress

HUB = "https://huggingface.co"
I2P, I2P_FILE = "AIML-TUDA/i2p", "i2p_benchmark.csv"
CANVAS = "OPTML-Group/UnlearnCanvas"
_MODEL = ("*.json", "*.txt", "*.model", "*.safetensors")
_DUPLICATES = ("*.fp16*", "*non_ema*", "*.msgpack")
_CAPTION = re.compile(r"\s*an?\s+(.+?)\s+image\s+in\s+(.+?)\s+style\W*", re.IGNORECASE)


class UnreachableError(RuntimeError):
    """The hub cannot be reached or does not provide a file; the message says what to place where instead."""


def fetch_model(name: str) -> Path:
    """Download a model into the hub's own cache, where `--model NAME` finds it.

    Raises:
        UnreachableError: The model cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    def download() -> str:
        folder = snapshot_download(name, allow_patterns=[*_MODEL], ignore_patterns=[*_DUPLICATES])
        if not any(Path(folder).rglob("*.safetensors")):
            raise FileNotFoundError("it has no safetensors weights")
        return folder

    place = f"place the files of {HUB}/{name} in a folder, as diffusers lays them out, and pass --model FOLDER"
    return Path(_downloaded(name, download, place))


def fetch_i2p(name: str, target: Path, force: bool, sample: int | None = None) -> Path:
    """Download I2P's prompts, as published.

    Args:
        name: The data set's name on the hub.
        target: The file to write.
        force: Whether an existing file may be replaced.
        sample: The number of prompts, spread evenly over the file; None for all.

    Raises:
        UnreachableError: The prompts cannot be downloaded.
        BadFile: `target` cannot be written.
    """
    from huggingface_hub import hf_hub_download

    place = f"download {I2P_FILE} from {HUB}/datasets/{name}, place it at {target}, and pass --prompts {target}"
    file = _downloaded(name, lambda: hf_hub_download(name, I2P_FILE, repo_type="dataset"), place)
    with atomic(target, force) as temporary:
        temporary.write_bytes(Path(file).read_bytes() if sample is None else _sampled(Path(file), sample))
    return target


def fetch_unlearncanvas(name: str, target: Path, progress: Progress | None = None, sample: int | None = None) -> Path:
    """Download UnlearnCanvas' pictures to `target/STYLE/OBJECT/NUMBER.jpg`; existing files are not written again.

    Args:
        name: The data set's name on the hub.
        target: The folder to write to.
        progress: The progress callback.
        sample: The number of pictures, from as few files as they need; None for all.

    Raises:
        UnreachableError: The pictures cannot be downloaded.
        BadFile: `target` cannot be written, or the download is another data set.
    """
    from huggingface_hub import snapshot_download

    place = (
        f"download the pictures of {HUB}/datasets/{name}, place them as {target}/STYLE/OBJECT/NUMBER.jpg, "
        f"and pass --data {target}"
    )
    numbers: Counter[Path] = Counter()
    if sample is not None:
        _fetch_some(name, target, sample, numbers, place, progress)
    else:
        folder = _downloaded(
            name, lambda: snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]), place
        )
        shards = sorted(Path(folder).rglob("*.parquet"))
        for index, shard in enumerate(shards):
            _unpack(shard, target, numbers)
            if progress:
                progress("pictures", index + 1, len(shards))
    if not numbers:
        raise BadFile(f"{name} has no picture whose text names an object and a style; is it UnlearnCanvas?")
    return target


def _fetch_some(
    name: str, target: Path, sample: int, numbers: Counter[Path], place: str, progress: Progress | None
) -> None:
    """Download one file of the data set after the other, until there are enough pictures."""
    from huggingface_hub import HfApi, hf_hub_download

    listed: list[str] = []
    _downloaded(name, lambda: str(listed.extend(HfApi().list_repo_files(name, repo_type="dataset"))), place)
    for shard in sorted(file for file in listed if file.endswith(".parquet")):
        path = _downloaded(name, partial(hf_hub_download, name, shard, repo_type="dataset"), place)
        _unpack(Path(path), target, numbers, sample)
        if progress:
            progress("pictures", numbers.total(), sample)
        if numbers.total() >= sample:
            return


def _sampled(file: Path, sample: int) -> bytes:
    """The header of a CSV and some of its rows, spread evenly, as CSV."""
    header, *rows = csv.reader(StringIO(read_text(file, "prompts"), newline=""))
    count = min(sample, len(rows))
    text = StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *(rows[i * len(rows) // count] for i in range(count))])
    return text.getvalue().encode()


def _downloaded(name: str, download: Callable[[], str], place: str) -> str:
    """The path of a download; `place` is the advice for an error message: what to place where instead."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    try:
        return download()
    except HFValidationError as error:
        raise BadInput(f"'{name}' is not a name on the hub; write it as OWNER/NAME.") from error
    except GatedRepoError as error:
        raise UnreachableError(f"{name} is for registered users: accept its terms, and set HF_TOKEN.") from error
    except Exception as error:
        # The hub's own message without a connection is about its options.
        lines = [] if isinstance(error, LocalEntryNotFoundError) else str(error).strip().splitlines()
        reason = next(iter(lines), "the hub cannot be reached").rstrip(".")
        raise UnreachableError(f"{name} was not downloaded ({reason}): {place}.") from error


def _unpack(shard: Path, target: Path, numbers: Counter[Path], most: int | None = None) -> None:
    """Write the pictures of one file, until there are `most` of all files; `numbers` counts those of each cell."""
    import pyarrow.parquet as pq

    file: Any = pq.ParquetFile(shard)
    for batch in file.iter_batches(batch_size=16, columns=["image", "text"]):
        rows: Sequence[Mapping[str, Any]] = batch.to_pylist()
        for row in rows:
            caption = _CAPTION.fullmatch(row["text"] or "")
            if not caption or not row["image"] or not row["image"]["bytes"]:
                continue
            if most is not None and numbers.total() >= most:
                return
            thing, style = (re.sub(r"\W+", "_", words.strip()) for words in caption.groups())
            folder = target / style / thing
            numbers[folder] += 1
            picture = folder / f"{numbers[folder]}.jpg"
            if not picture.is_file():
                _write(picture, row["image"]["bytes"])


def _write(picture: Path, content: bytes) -> None:
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot write to {picture.parent}: {why_not_written(error)}.") from error
    with atomic(picture) as temporary:
        temporary.write_bytes(content)
