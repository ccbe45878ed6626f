"""UnlearnCanvas' accuracies against a count by hand, on the embedded model's world and on the published layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import open_judge
from efface.metrics.features import open_extractor
from efface.models import Model
from efface.models.emoji import catalogue
from efface.protocols import BASE, PROTOCOLS, Evaluation, Result
from efface.protocols.run import run_protocol
from efface.protocols.unlearncanvas import SEEDS, seed_of
from efface.protocols.world import grid_of, read_grid

QUICK = Sampling("ddim", 2, 7.0, batch_size=8)
STYLES, OBJECTS = ("Pop_Art", "Seed_Images", "Van_Gogh"), ("Cats", "Dogs", "Trees")


@pytest.fixture(scope="module")
def erased(emoji: Model) -> efface.Eraser:
    return efface.erase(emoji, "cat", to="dog")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tiny folder in the published layout: 6 pictures a cell."""
    rng = np.random.default_rng(0)
    for style in STYLES:
        for thing in OBJECTS:
            folder = tmp_path / "canvas" / style / thing
            folder.mkdir(parents=True)
            for number in range(1, 7):
                noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{number}.jpg")
    return tmp_path / "canvas"


def run(model: Model, eraser: efface.Eraser, judge: Any, out: Path, n: int = 2, **options: Any) -> Evaluation:
    data, is_trusted = options.pop("data", None), options.pop("is_trusted", False)
    given: dict[str, Any] = {"data": data, "options": options, "trust_torchscript": is_trusted}
    entry = PROTOCOLS.get("unlearncanvas")
    return run_protocol(entry, model, {"mine": eraser}, judge, out=out, n=n, sampling=QUICK, **given)


def counted(result: Result, metric: str, *concepts: str) -> float:
    """By hand: the share of right answers among the questions about some concepts."""
    shots = [shot for shot in result.images if shot.probe.metric == metric and shot.probe.concept in concepts]
    return float(np.mean([shot.shows is (metric == "retain") for shot in shots]))


@pytest.fixture(scope="module")
def found(emoji: Model, erased: efface.Eraser, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("canvas") / "out"
    return run(emoji, erased, open_judge("emoji"), out, only="cat, dog, star, flat, 3d")


def test_the_embedded_world(found: Evaluation) -> None:
    mine, base = found.erasers["mine"], found.erasers[BASE]
    assert len(mine.images) == 3 * 2 * 2 * 2, "objects x styles x seeds x the two questions"
    assert {shot.probe.job.prompt for shot in mine.images} >= {"a cat image in flat style", "a star image in 3d style"}
    assert set(mine.rates) == {"forget", "retain", "object_ua", "object_ira", "object_cra"}
    for result in (mine, base):
        assert result.metrics["object_ua"].value == pytest.approx(counted(result, "forget", "cat"))
        assert result.metrics["object_ira"].value == pytest.approx(counted(result, "retain", "dog", "star"))
        assert result.metrics["object_cra"].value == pytest.approx(counted(result, "retain", "flat", "3d"))
    assert (mine.metrics["object_ua"].n, mine.metrics["object_ira"].n, mine.metrics["object_cra"].n) == (4, 8, 12)
    assert mine.base["object_ua"] == base.metrics["object_ua"]
    change = mine.metrics["object_ua"].value - base.metrics["object_ua"].value
    assert mine.change["object_ua"].value == pytest.approx(change)
    assert sum(mine.destinations["forget"]["cat"].values()) == 4
    assert found.judge.recall is not None
    assert found.judge.recall.n == len(base.images)


def test_fid_is_that_of_the_images_that_show_nothing_erased(found: Evaluation) -> None:
    measured = found.erasers["mine"].metrics["fid"]
    sets: list[np.ndarray] = []
    for result in (found.erasers["mine"], found.erasers[BASE]):
        paths = {s.probe.job: s.path for s in result.images if "cat" not in s.probe.job.prompt and s.path}
        pixels = [np.asarray(Image.open(path)) for path in paths.values()]
        sets.append(open_extractor("emoji-clip").features(pixels))
    x, y = sets
    assert len(x) == 8
    # In the space that the two sets span, where little of the product of the covariances is singular.
    basis = np.linalg.svd(np.concatenate([x - x.mean(0), y - y.mean(0)]), full_matrices=False)[2][:14]
    S, T = np.cov(x @ basis.T, rowvar=False), np.cov(y @ basis.T, rowvar=False)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(S @ T).real, 0))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(S + T) - 2 * roots.sum()
    assert measured.value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert measured.low <= measured.value <= measured.high
    assert "the unedited model's images" in measured.note
    assert "fid" not in found.erasers["mine"].base
    d = x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    unbiased = [(k.sum() - np.trace(k)) / (8 * 7) for k in (xx, yy)]
    other = found.erasers["mine"].metrics["kid"]
    assert other.value == pytest.approx(sum(unbiased) - 2 * xy.mean(), abs=1e-6)
    assert "the unedited model's images" in other.note


def test_a_style_by_another_word(emoji: Model, tmp_path: Path) -> None:
    eraser = efface.erase(emoji, "line drawing", to="flat", kind="style")
    found = run(emoji, eraser, open_judge("emoji"), tmp_path / "out", 1, only="cat,star,flat,line art")
    mine = found.erasers["mine"]
    assert {"style_ua", "style_ira", "style_cra"} <= set(mine.metrics)
    assert mine.metrics["style_ua"].value == pytest.approx(counted(mine, "forget", "line art"))
    assert mine.metrics["style_cra"].value == pytest.approx(counted(mine, "retain", "cat", "star"))


def test_the_whole_world_leaves_out_what_was_never_trained() -> None:
    grid = grid_of(catalogue())
    cells = grid.cells()
    assert len(cells) == len(set(cells)) == 42 * 7 - len(catalogue().held_out_cells)
    assert not set(cells) & set(catalogue().held_out_cells)
    assert [seed_of(k) for k in range(7)] == [*SEEDS, 1188, 1288]


def test_the_published_layout(tiny_model: Model, data: Path, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "Van Gogh style", to="Pop Art", kind="style")
    judge = colours(*STYLES, *OBJECTS)
    found = run(tiny_model, eraser, judge, tmp_path / "out", data=data, extractor="emoji-clip")
    mine = found.erasers["mine"]
    jobs = {shot.probe.job for shot in mine.images}
    assert {job.prompt for job in jobs} >= {"A Cats image in Van Gogh style.", "A Trees image in Seed Images style."}
    assert {job.seed for job in jobs} == {188, 288}
    assert {job.guidance for job in jobs} == {9.0}
    assert mine.metrics["style_ua"].value == pytest.approx(counted(mine, "forget", "Van_Gogh"))
    assert mine.metrics["style_cra"].value == pytest.approx(counted(mine, "retain", *OBJECTS))
    fid = mine.metrics["fid"]
    assert (fid.n, mine.base["fid"].n) == (12, 12), "without the erased style's cells"
    assert "against 30 images" in fid.note, "pictures 1 to 5 of 6 cells"
    assert mine.change["fid"].value == pytest.approx(fid.value - mine.base["fid"].value)
    other = mine.metrics["kid"]
    assert (other.n, other.extractor) == (12, fid.extractor)
    assert mine.change["kid"].value == pytest.approx(other.value - mine.base["kid"].value)


def test_a_judge_for_objects_beside_one_for_styles(
    tiny_model: Model, data: Path, colours: Any, tmp_path: Path, judge_of_objects: Path
) -> None:
    eraser = efface.erase(tiny_model, "Cats", to="Dogs")
    judge = colours(*STYLES)
    found = run(
        tiny_model,
        eraser,
        judge,
        tmp_path / "out",
        1,
        data=data,
        objects=f"style:{judge_of_objects}",
        extractor="emoji-clip",
    )
    assert found.judge.name == "colours+style"
    assert {"object_ua", "object_ira", "object_cra"} <= set(found.erasers["mine"].metrics)


@pytest.fixture(scope="session")
def judge_of_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of the objects, with random weights."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("judges") / "objects"
    labels = dict(enumerate(OBJECTS))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=labels
        )
        ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_pictures_come_in_order_of_number(data: Path) -> None:
    (data / "Pop_Art" / "Cats" / "10.jpg").write_bytes((data / "Pop_Art" / "Cats" / "1.jpg").read_bytes())
    grid = read_grid(data)
    assert [path.stem for path in grid.pictures["Cats", "Pop_Art"]] == ["1", "2", "3", "4", "5", "6", "10"]
    assert grid.find("a Van Gogh style") == ("style", "Van_Gogh")
    assert grid.find("cats") == ("object", "Cats")


def test_bad_input(
    emoji: Model, tiny_model: Model, erased: efface.Eraser, data: Path, colours: Any, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--data FOLDER"):
        run(tiny_model, efface.erase(tiny_model, "cat"), colours("cat"), tmp_path / "out")
    with pytest.raises(BadInput, match="STYLE/OBJECT"):
        run(tiny_model, efface.erase(tiny_model, "cat"), colours("cat"), tmp_path / "out", data=data / "Pop_Art")
    with pytest.raises(BadInput, match="'unicorn' is neither an object nor a style"):
        run(emoji, efface.erase(emoji, "unicorn"), open_judge("emoji"), tmp_path / "out")
    with pytest.raises(BadInput, match="'draws' is 3"):
        run(emoji, erased, open_judge("emoji"), tmp_path / "out", draws=3)
    with pytest.raises(BadInput, match="Unknown option 'ony'"):
        run(emoji, erased, open_judge("emoji"), tmp_path / "out", ony="cat")
    (tmp_path / "sscd.pt").write_bytes(b"no TorchScript")
    objects = f"sscd:{tmp_path / 'sscd.pt'}"
    for is_trusted, printed in ((False, "--trust-torchscript"), (True, "Cannot read SSCD's weights")):
        with pytest.raises(BadInput, match=printed):
            run(emoji, erased, open_judge("emoji"), tmp_path / "out", objects=objects, is_trusted=is_trusted)
    (data / "Pop_Art" / "Dogs" / "1.jpg").write_bytes(b"half")
    eraser = efface.erase(tiny_model, "Cats", to="Dogs")
    judge = colours(*STYLES, *OBJECTS)
    with pytest.raises(BadInput, match=r"1\.jpg"):
        run(tiny_model, eraser, judge, tmp_path / "late", 1, data=data, extractor="emoji-clip")
