"""Item 49: interrupted again and again and resumed, a command writes the bytes of a run that nothing disturbed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface import Eraser
from efface.errors import BadFile, BadInput
from efface.generation import Job, Sampling, generate_images
from efface.generation.folder import FolderWriter
from efface.judges.base import Pixels, Scores
from efface.models import Model
from efface.progress import Progress
from efface.protocols.plan import BASE, Plan
from efface.protocols.run_images import RunImages
from support import StubJudge

TIMES = ("seconds", "seconds_per_prompt", "timings")
Command = Callable[[Path, Progress | None], object]


class Colourful(StubJudge):
    """A judge whose answers depend on the pixels alone, so that some attempts of an attack succeed at once."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        if self.progress:
            self.progress("verdicts", 0, 0)
        return np.array([[(image.astype(int).sum() % 7) / 6 for _ in concepts] for image in images])


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, object]:
    """The files of a folder: JSON without times, others as bytes. The page has the numbers of report.json."""
    files: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"):
        data: object = path.read_bytes()
        if path.suffix == ".json":
            data = without_times(json.loads(path.read_text()))
        elif path.parent.name == "attempts":
            data = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        files[str(path.relative_to(folder))] = data
    return files


def interrupted(command: Command, out: Path, most: int = 40) -> int:
    """Run a command, interrupt it after each few reports of progress, and resume it until it is done.

    Returns:
        The number of interruptions.
    """
    for number in range(most):
        calls = 0

        def progress(what: str, done: int, total: int, note: str = "", allowed: int = 3 * number + 1) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise KeyboardInterrupt

        try:
            command(out, progress)
        except KeyboardInterrupt:
            continue
        return number
    raise AssertionError("it never ends")


@pytest.fixture
def eraser(tiny_sd: Path) -> Eraser:
    return efface.erase(str(tiny_sd), "cat", "dog")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in three folders named after labels."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label in ("cat", "dog", "horse"):
        (folder / label).mkdir()
        for index in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / label / f"{index}.png")
    return folder


def commands(eraser: Eraser, model: str, pictures: Path) -> dict[str, Command]:
    quick: Any = {"model": model, "steps": 1, "batch_size": 2}

    def judged(progress: Progress | None) -> Any:
        return {"judge": Colourful(progress), "progress": progress}

    def attack(name: str, **options: Any) -> Command:
        return lambda out, progress: efface.attack(
            {"a": eraser}, name, n=4, folder=out, **judged(progress), **quick, **options
        )

    return {
        "attack": attack("random_prefix", settings={"prefixes": 3}),
        "attack by embeddings": attack("embedding_shift"),
        "generate": lambda out, progress: efface.generate(
            ["a dog", "a cat", "a bird"], eraser=eraser, n=3, folder=out, progress=progress, **quick
        ),
        "evaluate": lambda out, progress: efface.evaluate(
            {"a": eraser}, n=4, attacks=["random_prefix"], folder=out, **judged(progress), **quick
        ),
        "judge train": lambda out, progress: efface.train_judge(
            pictures, out, settings={"size": 32, "epochs": 8}, progress=progress
        ),
    }


@pytest.mark.parametrize("name", ["attack", "attack by embeddings", "generate", "evaluate", "judge train"])
def test_interrupted_and_resumed_is_undisturbed(
    eraser: Eraser, tiny_sd: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    command = commands(eraser, str(tiny_sd), pictures)[name]
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache-1"))
    command(tmp_path / "undisturbed", None)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache-2"))
    assert interrupted(command, tmp_path / "interrupted") > 1
    expected = content(tmp_path / "undisturbed")
    assert content(tmp_path / "interrupted") == expected
    assert any(path.endswith(("metadata.jsonl", "judge.json")) for path in expected)


def test_images_that_are_not_stored_leave_no_metadata(tiny_sd: Path, tmp_path: Path) -> None:
    eraser = efface.erase(str(tiny_sd), "cat", kind="unsafe")
    judge: Any = Colourful()

    def command(out: Path, progress: Progress | None) -> object:
        options: Any = {"settings": {"prefixes": 2}, "n": 3, "steps": 1, "judge": judge}
        return efface.attack(
            {"a": eraser}, "random_prefix", model=str(tiny_sd), folder=out, progress=progress, **options
        )

    command(tmp_path / "undisturbed", None)
    interrupted(command, tmp_path / "interrupted")
    assert content(tmp_path / "interrupted") == content(tmp_path / "undisturbed")
    assert not [*tmp_path.rglob("metadata.jsonl"), *tmp_path.rglob("*.png")]


def test_the_order_of_metadata_follows_from_the_last_request(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    rows = {
        key: {"file_name": f"{key}.png", "key": key, "prompt": prompt, "seed": seed, "concept": "", "guidance": 1.0}
        | {"steps": 1, "sampler": "ddim", "model": "m", "model_hash": "h"}
        for key, prompt, seed in (("x", "b", 2), ("y", "b", 1), ("z", "a", 3), ("w", "c", 0))
    }
    for name, order in (("one", "xyzw"), ("other", "zywx")):
        with FolderWriter(tmp_path / name) as folder:
            for key in order:
                folder.add(rows[key], pixels)
                folder.finish([key])
            folder.finish(["w"])
    lines = [(tmp_path / name / "metadata.jsonl").read_text() for name in ("one", "other")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["key"] for line in lines[0].splitlines()] == ["w", "z", "y", "x"]


@pytest.mark.parametrize("folder", ["missing", "empty", "foreign", "images", "other evaluation", "other command"])
def test_the_stage_judge_names_what_is_wrong_with_its_folder(
    eraser: Eraser, tiny_sd: Path, tmp_path: Path, folder: str
) -> None:
    judge: Any = Colourful()
    quick: Any = {"model": str(tiny_sd), "judge": judge, "steps": 1}
    out = tmp_path / folder
    if folder == "foreign":
        (out / "images").mkdir(parents=True)
    elif folder == "empty":
        out.mkdir()
    elif folder == "images":
        efface.generate("a cat", model=str(tiny_sd), steps=1, folder=out)
    elif folder == "other evaluation":
        efface.evaluate({"a": eraser}, n=2, folder=out, stage="generate", **quick)
    elif folder == "other command":
        efface.attack({"a": eraser}, "random_prefix", n=1, settings={"prefixes": 1}, folder=out, **quick)
    before = content(out) if out.exists() else None
    with pytest.raises(BadInput, match="the stage judge needs the folder") as caught:
        efface.evaluate({"a": eraser}, n=4, folder=out, stage="judge", **quick)
    reasons = {"foreign": "not efface's", "other evaluation": "with other n", "other command": "of attack"}
    assert reasons.get(folder, "has no images to judge") in str(caught.value)
    assert (content(out) if out.exists() else None) == before


@pytest.mark.parametrize(
    ("state", "is_unfinished"), [("missing", True), ("empty", True), ("damaged metadata", False), ("damaged", False)]
)
def test_the_stage_judge_asks_for_the_first_stage_where_it_has_not_ended(
    tiny_model: Model, tmp_path: Path, state: str, is_unfinished: bool
) -> None:
    sampling, job, folder = Sampling("ddim", 1, 3.0), Job("a cat", 1), tmp_path / "images" / BASE
    if state == "empty":
        folder.mkdir(parents=True)
        (folder / "metadata.jsonl").touch()
    elif state.startswith("damaged"):
        (image,) = generate_images(tiny_model, [job], sampling, out=folder)
        assert image.path is not None
        (folder / "metadata.jsonl" if state == "damaged metadata" else image.path).write_text("no row\nno row\n")
    images = RunImages(tiny_model, sampling, {}, tmp_path, use_cache=False, stage="judge")
    with pytest.raises(BadFile) as caught:
        images.check({BASE: Plan((), jobs=(job,))})
    assert ("The stage generate has to end first." in str(caught.value)) is is_unfinished
