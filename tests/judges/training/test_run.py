"""Training a judge: that it learns, can be had again, goes on where it was, and says how good it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.shared.classifier import ClassifierJudge
from efface.judges.training.network import TrainSettings
from efface.judges.training.pictures import find_labelled_pictures, split_pictures
from efface.judges.training.run import RESULT, STATE, train_classifier

SETTINGS = TrainSettings(size=32, epochs=6, batch_size=16, lr=3e-3)


class StoppedError(Exception):
    """An interruption."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STYLE/OBJECT/PICTURE: a disc or a square, in red or blue, on noise."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for style, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        for thing in ("disc", "square"):
            (root / style / thing).mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(60, 200, (32, 40, 3))
                y, x = np.mgrid[:32, :40] - rng.integers(12, 20, 2)[:, None, None]
                inside = x**2 + y**2 < 81 if thing == "disc" else np.maximum(abs(x), abs(y)) < 8
                pixels[inside] = colour
                Image.fromarray(pixels.astype(np.uint8)).save(root / style / thing / f"{i}.png")
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_opens_as_a_judge(pictures: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    result = train_classifier(
        pictures,
        tmp_path,
        "style",
        SETTINGS,
        progress=lambda what, done, total, note="": reports.append((what, done, total)),
    )
    assert reports == [("epochs", i + 1, 6) for i in range(6)]
    confusion = np.array(result["confusion"])
    assert result["classes"] == ["blue", "red"]
    assert (result["held_out"], result["learned_from"]) == (16, 32)  # 24 pictures a class, of which 8 are held out
    assert confusion.sum(1).tolist() == [8, 8]
    assert result["accuracy"] == np.trace(confusion) / 16 >= 0.9
    assert result["recall"] == (np.diag(confusion) / 8).tolist()
    assert json.loads((tmp_path / RESULT).read_text()) == result
    assert not (tmp_path / STATE).exists()

    held_out = split_pictures(find_labelled_pictures(pictures, "style"), 0.3, 0).held_out
    for name in ("style", "imagenet"):
        judge = open_judge(f"{name}:{tmp_path}")
        assert isinstance(judge, ClassifierJudge)
        assert judge.peers("red") == ("blue",)
        scores = judge.scores(np.stack([np.asarray(Image.open(path)) for path, _ in held_out]), ["blue", "red"])
        right = [line[index] >= 0.5 for line, (_, index) in zip(scores, held_out, strict=True)]
        assert np.mean(right) == result["accuracy"]


def test_objects_are_the_last_folder(pictures: Path) -> None:
    found = find_labelled_pictures(pictures, "object")
    assert {(path.parent.name, label) for path, label in found} == {("disc", "disc"), ("square", "square")}
    assert {label for _, label in find_labelled_pictures(pictures / "red", "style")} == {"disc", "square"}


def test_the_seed_decides_and_an_interrupted_run_ends_the_same(pictures: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "again", "stopped", "other")]
    for folder in folders:
        folder.mkdir()
    one, again, stopped, other = folders
    settings = SETTINGS.model_copy(update={"epochs": 3})
    train_classifier(pictures, one, "object", settings)
    train_classifier(pictures, again, "object", settings)
    assert same(one, again)

    def stop(what: str, done: int, total: int, note: str = "") -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_classifier(pictures, stopped, "object", settings, progress=stop)
    assert (stopped / STATE).is_file()
    reports: list[int] = []
    train_classifier(
        pictures, stopped, "object", settings, progress=lambda what, done, total, note="": reports.append(done)
    )
    assert reports == [3]
    assert same(one, stopped)

    (stopped / STATE).write_bytes((one / "model.safetensors").read_bytes())  # of other work: not taken up
    reports.clear()
    train_classifier(
        pictures, stopped, "object", settings, 1, progress=lambda what, done, total, note="": reports.append(done)
    )
    train_classifier(pictures, other, "object", settings, 1)
    assert reports == [1, 2, 3]
    assert same(stopped, other)
    assert not same(one, other)


def test_the_last_layer_alone_learns(judge_files: Path, pictures: Path, tmp_path: Path) -> None:
    start = judge_files / "classifier"
    train_classifier(pictures, tmp_path, "object", TrainSettings(start=str(start), head_only=True, epochs=1))
    before, after = weights(start), weights(tmp_path)
    moved = {name for name in after if after[name].shape != before[name].shape or not after[name].equal(before[name])}
    assert moved == {"classifier.1.weight", "classifier.1.bias"}
    assert open_judge(f"style:{tmp_path}").knows("disc")


def test_a_vision_transformer_too(pictures: Path, tmp_path: Path) -> None:
    train_classifier(pictures, tmp_path, "object", TrainSettings(network="vit", size=32, epochs=1))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vit"


def test_labels_may_be_a_column(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((pictures / "red/disc/0.png").read_bytes())
    (tmp_path / "b.png").write_bytes((pictures / "red/disc/1.png").read_bytes())
    rows = [{"file_name": "a.png", "concept": "disc"}, {"file_name": "b.png", "concept": "square"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert find_labelled_pictures(tmp_path, "concept") == [(tmp_path / "a.png", "disc"), (tmp_path / "b.png", "square")]
    with pytest.raises(BadInput, match="its columns are: file_name, concept"):
        find_labelled_pictures(tmp_path, "style")


def test_every_class_is_split(pictures: Path) -> None:
    found = find_labelled_pictures(pictures, "style")
    data = split_pictures(found, 0.3, 0)
    assert set(data.learned).isdisjoint(data.held_out)
    assert len(data.learned) + len(data.held_out) == len(found)
    assert data == split_pictures(found, 0.3, 0) != split_pictures(found, 0.3, 1)
    few = [*found[:2], *found[-3:]]
    assert sorted(index for _, index in split_pictures(few, 0.9, 0).learned) == [0, 1]


def test_what_cannot_be_learned_from(pictures: Path, judge_files: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="write style or object"):
        find_labelled_pictures(pictures, "colour")
    with pytest.raises(BadInput, match="not a folder"):
        find_labelled_pictures(tmp_path / "gone", "style")
    with pytest.raises(BadInput, match="two or more"):
        split_pictures(find_labelled_pictures(pictures, "style")[:12], 0.3, 0)
    with pytest.raises(BadInput, match="one picture only"):
        split_pictures(
            [*find_labelled_pictures(pictures, "style")[:12], find_labelled_pictures(pictures, "style")[-1]], 0.3, 0
        )
    with pytest.raises(BadInput, match="is in no folder"):
        find_labelled_pictures(pictures / "red" / "disc", "style")
    with pytest.raises(BadInput, match="name one with start"):
        train_classifier(pictures, tmp_path, "style", TrainSettings(head_only=True))
    with pytest.raises(BadInput, match="Cannot open an image classifier"):
        train_classifier(pictures, tmp_path, "style", TrainSettings(start="no/such-model-here!"))
    with pytest.raises(BadInput, match="Cannot open an image classifier"):
        train_classifier(pictures, tmp_path, "style", TrainSettings(start=str(judge_files / "llava")))
    broken = tmp_path / "pictures" / "a"
    broken.mkdir(parents=True)
    (tmp_path / "pictures" / "b").mkdir()
    for i in range(2):
        (broken / f"{i}.png").write_bytes((pictures / "red/disc/0.png").read_bytes()[:200])
        (tmp_path / "pictures" / "b" / f"{i}.png").write_bytes((pictures / "red/disc/0.png").read_bytes())
    with pytest.raises(BadInput, match="Cannot learn from"):
        train_classifier(tmp_path / "pictures", tmp_path, "style", SETTINGS)
