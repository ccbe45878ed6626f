"""`efface.train_judge`: a judge from folders of labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.errors import FORCE, AlreadyComplete, BadFile
from efface.files import read_text
from efface.generation.classes import read_classes
from efface.judges.training.network import TrainSettings
from efface.judges.training.pictures import find_labelled_pictures, read_split
from efface.judges.training.run import RESULT, train_classifier
from efface.models.runtime import resolve_device
from efface.parsing import library_errors, read_json
from efface.settings import Scalar
from efface.tables import plain_entries
from efface.work_folder import claim

if TYPE_CHECKING:
    import torch

    from efface.progress import Progress


@dataclass(frozen=True)
class TrainJudgeResult(VerbResult):
    """A trained judge and its test on pictures that were held out.

    Attributes:
        judge: The name that opens it: `efface.open_judge(result.judge)`.
        labels: The labels that it learned: object, style, or a column of metadata.
        classes: Names of the classes.
        accuracy: The share of held-out pictures that it recognised.
        recall: That share by class.
        learned_from: The number of pictures that it learned from.
        held_out: The number of pictures held out.
        confusion: Counts of held-out pictures, by class (row) and by the recognised class (column).
    """

    judge: str
    labels: str
    classes: Sequence[str]
    accuracy: float
    recall: Sequence[float]
    learned_from: int
    held_out: int
    confusion: Sequence[Sequence[int]]


@none_is_not_given
def train_judge(
    folder: Path | str,
    out: Path | str,
    labels: str = "object",
    *,
    settings: Mapping[str, Scalar] | None = None,
    names: Path | str | Sequence[str] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> TrainJudgeResult:
    """Train a classifier of styles or objects, and test it on held-out pictures.

    Example:
        >>> result = efface.train_judge("pictures", "my-judge", settings={"epochs": 5})
        >>> efface.judge("images", "cat", judge=result.judge)

    Args:
        folder: The pictures, each in a folder named after its label, or with `metadata.jsonl`. If it has the folders
            `train` and `eval`, the judge learns from the first and is tested on the second.
        out: The folder for the judge. Called again with the same folder, an interrupted training resumes.
        labels: In `STYLE/OBJECT/PICTURE`, "style" is the first folder and "object" the last one; or a column of the
            metadata.
        settings: Settings of the training: network, start, head_only, size, epochs, lr and so on (`TrainSettings`).
        names: Names of the classes in the folders 0, 1, 2 and so on, or a file of them: one per line, or a CSV as for
            `efface.generate_classes`.
        seed: The seed of split, weights and order.
        device: The device to train on.
        force: Whether other or completed work in `out` may be replaced.
        progress: The progress callback.

    Raises:
        AlreadyComplete: The folder has the result of the same training.
        BadInput: The pictures, their labels, a setting or the folder cannot be used.
    """
    pictures, target = Path(folder), Path(out)
    config = TrainSettings.model_validate(dict(settings or {}))
    name = resolve_device(device)
    of_classes = _names(Path(names)) if isinstance(names, str | Path) else list(names)
    find_labelled_pictures(pictures, labels)
    work = {"pictures": str(pictures.resolve()), "labels": labels, "seed": seed, "settings": config.model_dump()}
    named = {"names": of_classes} if of_classes else {}
    try:
        with claim(target, "judge train", {**work, **named}, RESULT, force):
            result = train_classifier(pictures, target, labels, config, seed, name, progress, of_classes)
    except AlreadyComplete:
        learned = read_json(target / RESULT, "the result").get("pictures")
        if read_split(pictures, labels, config, seed, of_classes).hash != learned:
            raise BadFile(
                f"{target} is a judge that learned from other pictures; choose another -o, or pass {FORCE} to replace "
                "it."
            ) from None
        raise
    return _result(target, result)


def stored_training(folder: Path) -> dict[str, Any]:
    """What `TrainJudgeResult.to_json` gave for the judge that is complete in a folder.

    Raises:
        BadFile: The result of the training cannot be read.
    """
    content = read_json(folder / RESULT, "the result")
    with library_errors(f"Cannot read the result from {folder / RESULT}"):
        return _result(folder, content).to_json()


def _result(target: Path, content: Mapping[str, Any]) -> TrainJudgeResult:
    tested = ("labels", "classes", "accuracy", "recall", "learned_from", "held_out", "confusion")
    return TrainJudgeResult(f"style:{target}", **{key: content[key] for key in tested})


def _names(path: Path) -> list[str]:
    """The names of classes in a file.

    Raises:
        BadFile: The file cannot be read, has no name, or has one twice.
    """
    if path.suffix.lower() == ".csv":
        return [one.name for one in read_classes(path)]
    names = [name for _, name in plain_entries(read_text(path, "names of classes"))[0]]
    if not names:
        raise BadFile(f"{path} names no class; write one per line.")
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise BadFile(f"{path} has the class '{twice[0]}' twice; give each class another name.")
    return names
