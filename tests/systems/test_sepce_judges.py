"""CiE and SepCE: the judges of their documentation, with the effect that it states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from command_line import Efface
from efface import Eraser
from onnx_detector import write_nudenet_2
from support import two_shades


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    for package in ("nudenet", "onnxruntime", "cv2"):
        pytest.importorskip(package)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_s9_the_checkpoint_in_the_home_folder_is_found(efface: Efface, refused: Callable[..., str], home: Path):
    Path("images").mkdir()
    two_shades((40, 40), (120, 160, 210)).save("images/a.png")
    command = ("judge", "images", "--question", "belly exposed", "--json")

    def answers(judge: str, out: str) -> tuple[int, str]:
        content = efface(*command, "--judge", judge, "-o", f"{out}.parquet").json()
        return content["questions"]["belly exposed"]["yes"], content["judge"]["version"]

    assert answers("nudenet", "packaged")[0] == 0
    stored = home / ".NudeNet" / "default" / "detector_v2_default_checkpoint.onnx"
    write_nudenet_2(stored, "BELLY_EXPOSED", 0.7)
    yes, version = answers("nudenet", "stored")
    assert (yes, version.split()[0]) == (1, stored.name)
    (home / ".NudeNet" / "classifier_model.onnx").touch()  # of the same archive, and no detector
    assert answers("nudenet", "with-classifier") == (1, version)
    assert answers(f"nudenet:{stored}", "named") == (1, version)
    stored.rename(stored.with_name("one.onnx"))
    write_nudenet_2(stored.with_name("two.onnx"), "BELLY_EXPOSED", 0.7)
    assert "default/one.onnx, default/two.onnx" in refused(*command, "--judge", "nudenet")
    for path in stored.parent.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    stored.with_name("two.onnx").unlink()
    assert "Cannot read a detector" in refused(*command, "--judge", "nudenet")


ARTISTS = {"Van Gogh": (30, 60, 200), "Picasso": (200, 120, 40), "blank": (230, 230, 230)}
LEARN = ("-s", "size=32", "-s", "epochs=5", "-s", "batch_size=8", "-s", "lr=3e-3", "-s", "flip=false")


def write_pictures(folder: Path, colour: tuple[int, int, int], n: int, seed: int) -> None:
    """Pictures of noise around a colour, 16 x 16."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(n):
        pixels = np.clip(rng.normal(colour, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(folder / f"{index:02}.png")


@pytest.fixture
def data(efface: Efface) -> Path:
    """data/train/0..2 and data/eval/0..2; in eval, the second class looks like the first."""
    for index, colour in enumerate(ARTISTS.values()):
        write_pictures(Path(f"data/train/{index}"), colour, 8, index)
        write_pictures(Path(f"data/eval/{index}"), colour if index != 1 else ARTISTS["Van Gogh"], 5, 10 + index)
    Path("artists.csv").write_text("artist\n" + "\n".join(ARTISTS))
    Path("artists.txt").write_text("\n".join(ARTISTS) + "\n")
    return Path("data")


@pytest.mark.parametrize("names", ["artists.csv", "artists.txt"])
def test_s5_the_judge_learns_from_train_and_is_tested_on_eval(efface: Efface, data: Path, names: str):
    answer = efface("judge", "train", data, "--names", names, *LEARN, "-o", "artists", "--json").json()
    assert answer["classes"] == ["Picasso", "Van Gogh", "blank"]
    assert (answer["learned_from"], answer["held_out"]) == (24, 15)
    # In eval, Picasso's pictures are like Van Gogh's in train: a judge that had seen them would know better.
    assert answer["recall"] == [0, 1, 1]
    assert answer["confusion"][0] == [0, 5, 0]
    judged = efface("judge", data / "train/1", "--judge", "style:artists", "-q", "Picasso", "--json").json()
    assert judged["questions"]["Picasso"]["yes"] == 8


def test_s5_bad_folders_and_names(efface: Efface, refused: Callable[..., str], data: Path):
    command = ("judge", "train", data, *LEARN, "-o", "out")
    assert "held_out is a share" in refused(*command, "-s", "held_out=0.5")
    Path("few.txt").write_text("Van Gogh\nPicasso\n")
    assert "has the label '2', but names are given for 0 to 1" in refused(*command, "--names", "few.txt")
    Path("few.txt").write_text("Picasso\nPicasso\nblank\n")
    assert "'Picasso' twice" in refused(*command, "--names", "few.txt")
    Path("few.txt").write_text("\n")
    assert "names no class" in refused(*command, "--names", "few.txt")
    assert "gone.txt" in refused(*command, "--names", "gone.txt")
    copy = data / "eval/2/copy.png"
    copy.write_bytes((data / "train/2/00.png").read_bytes())
    assert "copy.png is the same picture as" in refused(*command)
    copy.unlink()
    (data / "eval/2").rename("elsewhere")
    assert "eval has no pictures of the class '2'" in refused(*command)


def test_s5_the_erasers_learn_from_the_images_of_train(efface: Efface, data: Path, tiny_sd: Path):
    """Each image once, in order: with as many images as steps, the loss of step i is that of image i."""
    for index, name in enumerate(ARTISTS):
        rows = [f'{{"file_name": "{i:02}.png", "concept": "{name}"}}\n' for i in range(8)]
        (data / f"train/{index}/metadata.jsonl").write_text("".join(rows))
    for method in ("cie", "sepce"):
        command = ("erase", "Van Gogh", "--method", method, "--kind", "style", "--model", tiny_sd, "--json")
        all_of_them = efface(*command, "-s", "datapath=data/train", "-o", f"{method}.safetensors")
        assert all_of_them.code == 0, all_of_them.err
        training = Eraser.load(f"{method}.safetensors").provenance["training"]
        assert [run["steps"] for run in training] == [8]
        first_two = Path(f"two-{method}")
        first_two.mkdir()
        for i in range(2):
            (first_two / f"{i}.png").write_bytes((data / f"train/0/{i:02}.png").read_bytes())
        assert efface(*command, "-s", f"datapath={first_two}", "-o", f"{method}-2.safetensors").code == 0
        assert efface(*command, "-s", "datapath=data/train", "-s", "iter_break=2", "-o", "short.safetensors").code == 0
        assert Eraser.load("short.safetensors").hash == Eraser.load(f"{method}-2.safetensors").hash
        Path("short.safetensors").unlink()
        other = efface(*command, "-s", "datapath=data/train/1", "-s", "iter_break=2", "-o", "other.safetensors")
        assert other.code == 0
        assert Eraser.load("other.safetensors").hash != Eraser.load(f"{method}-2.safetensors").hash
        Path("other.safetensors").unlink()
        assert "8 images of 'Van Gogh', each of which is used once: 8 steps" in all_of_them.err
        more = ("-s", "repeat_images=true", "-s", "iter_break=12", "-o", "again.safetensors")
        again = efface(*command, "-s", "datapath=data/train", *more)
        assert [run["steps"] for run in Eraser.load("again.safetensors").provenance["training"]] == [12]
        assert "used once" not in again.err
        Path("again.safetensors").unlink()


def test_s5_bad_image_folders(efface: Efface, refused: Callable[..., str], data: Path, tiny_sd: Path):
    command = ("erase", "Monet", "--method", "cie", "--model", tiny_sd)
    assert "No folder in data/train is of 'Monet'" in refused(*command, "-s", "datapath=data/train")
    assert "gone: it is not a folder" in refused(*command, "-s", "datapath=gone")
    Path("empty").mkdir()
    assert "empty has no images" in refused(*command, "-s", "datapath=empty")
    few = ("-s", "datapath=data/train/0", "-s", "batch_size=9")
    assert "fewer images than one step needs" in refused(*command, *few)
    (data / "train/0/03.png").write_bytes(b"no picture")
    assert "Cannot read these pictures" in refused(*command, "-s", "datapath=data/train/0")
    assert "repeat_images" in refused(*command, "-s", "repeat_images=often")
