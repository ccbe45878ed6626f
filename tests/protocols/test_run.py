"""The run of every protocol, by the one that is quickest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Sampling, read_folder
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.evaluation_record import input_record
from efface.protocols.run import run_protocol

QUICK = Sampling("ddim", 2, 3.0)


def run(model: Model, erasers: dict[str, efface.Eraser], judge: Any, out: Path, **asked: Any) -> Evaluation:
    options = {"classes": "cat,dog,car"}
    entry, n = PROTOCOLS.get("imagenette"), asked.pop("n", 4)
    return run_protocol(entry, model, erasers, judge, out=out, n=n, sampling=QUICK, options=options, **asked)


def test_several_erasers_and_the_base_that_drew_once(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    erasers = {"one": efface.erase(tiny_model, "cat", to="dog"), "two": efface.erase(tiny_model, "car", to="dog")}
    found = run(tiny_model, erasers, colours("cat", "dog", "car"), tmp_path / "out")
    assert list(found.erasers) == [BASE, "one", "two"]
    for name, concept in (("one", "cat"), ("two", "car")):
        mine = found.erasers[name]
        assert set(mine.destinations["forget"]) == {concept}
        forgotten = [shot for shot in mine.images if shot.probe.metric == "forget"]
        assert {shot.probe.concept for shot in forgotten} == {concept}
        both = [
            (float(x.shows is True), float(y.shows is True))
            for x in found.erasers[BASE].images
            for y in mine.images
            if x.probe == y.probe and y.probe.metric == "forget"
        ]
        assert mine.change["accuracy_erased"].value == pytest.approx(np.mean([b - a for a, b in both]))
        assert mine.base["accuracy_erased"].value == pytest.approx(np.mean([a for a, _ in both]))
    assert len(list((tmp_path / "out" / "images" / "base").glob("*.png"))) == 12
    # Each eraser asks for the cats under its own metric; the unedited model drew them once.
    assert found.erasers[BASE].metrics["accuracy_cat"].n == 4


def test_the_same_again(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog")
    first, second = (
        run(tiny_model, {"mine": eraser}, colours("cat", "dog", "car"), tmp_path / name).as_dict()
        for name in ("first", "second")
    )
    assert json.dumps(first) == json.dumps(second)


def test_errors_are_never_absence(
    tiny_model: Model, colours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = colours("cat", "dog", "car")
    real = judge.scores

    def half(images: np.ndarray, concepts: Any) -> np.ndarray:
        scores = real(images, concepts)
        scores[::2] = np.nan
        return scores

    monkeypatch.setattr(judge, "scores", half)
    found = run(tiny_model, {"mine": efface.erase(tiny_model, "cat", to="dog")}, judge, tmp_path / "out")
    mine = found.erasers["mine"]
    failed = [shot for shot in mine.images if shot.error]
    assert 0 < mine.errors == len(failed) < len(mine.images)
    assert mine.metrics["forget"].n + mine.metrics["retain"].n == len(mine.images) - len(failed)
    assert mine.destinations["forget"]["cat"].get("error", 0) == sum(shot.probe.metric == "forget" for shot in failed)
    assert found.errors == mine.errors + found.erasers[BASE].errors


def test_images_read_the_text_as_the_erasers_did(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    judge = colours("cat", "dog", "car")
    skipping = efface.erase(tiny_model, "cat", to="dog", clip_skip=1)
    found = run(tiny_model, {"mine": skipping}, judge, tmp_path / "out", n=1)
    assert found.provenance["sampling"]["clip_skip"] == 1
    rows = [image.row for name in (BASE, "mine") for image in read_folder(tmp_path / "out" / "images" / name)]
    assert [row["clip_skip"] for row in rows] == [1] * 6
    erasers = {"mine": skipping, "other": efface.erase(tiny_model, "cat", to="dog")}
    with pytest.raises(BadInput, match=r"different clip_skip \('mine' 1, 'other' none\)"):
        run(tiny_model, erasers, judge, tmp_path / "both")
    assert not (tmp_path / "both").exists()
    # None and 0 are one, under the key that images without either have had all along.
    one, other = (efface.erase(tiny_model, "cat", to="dog", clip_skip=skip) for skip in (None, 0))
    found = run(tiny_model, {"one": one, "other": other}, judge, tmp_path / "none", n=1)
    assert found.provenance["sampling"]["clip_skip"] is None


def test_bad_input(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    eraser, judge = efface.erase(tiny_model, "cat", to="dog"), colours("cat", "dog", "car")
    with pytest.raises(BadInput, match="at least one"):
        run(tiny_model, {}, judge, tmp_path / "out")
    with pytest.raises(BadInput, match="rename"):
        run(tiny_model, {"base": eraser}, judge, tmp_path / "out")
    with pytest.raises(BadInput, match="0 images are too few"):
        run(tiny_model, {"mine": eraser}, judge, tmp_path / "out", n=0)
    assert not (tmp_path / "out").exists()


def test_every_protocol_says_what_it_gives() -> None:
    assert {"ablation", "coco", "err", "i2p", "imagenette", "memorised", "style", "unlearncanvas"} <= set(
        PROTOCOLS.names()
    )
    for name in PROTOCOLS.names():
        entry = PROTOCOLS.get(name)
        assert entry.name == name
        assert entry.metrics
        assert entry.n >= 1
        assert entry.config is None or entry.config() == entry.config.model_validate({})


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_what_a_protocol_does_not_read_is_not_silently_left_aside(
    tiny_model: Model, colours: Any, tmp_path: Path, name: str
) -> None:
    entry, eraser = PROTOCOLS.get(name), efface.erase(tiny_model, "cat", to="dog")
    given: dict[str, Any] = {"prompts": tmp_path / "x.csv", "data": tmp_path}
    for what in given.keys() - set(entry.reads):
        with pytest.raises(BadInput, match=f"'{name}' reads no --{what}"):
            run_protocol(
                entry, tiny_model, {"mine": eraser}, colours("cat"), out=tmp_path / "out", **{what: given[what]}
            )
    assert not (tmp_path / "out").exists()


def test_provenance_names_files_without_their_place(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("x")
    options = {"lpips": f"{path},{path}", "extractor": f"inception:{path}", "side": 64, "clip": "openai/clip"}
    record = input_record(options, path, tmp_path)
    assert record["options"] == {
        "lpips": "weights.pth,weights.pth",
        "extractor": "inception:weights.pth",
        "side": 64,
        "clip": "openai/clip",
    }
    assert record["prompts"]["name"] == "weights.pth"
    assert str(tmp_path) not in json.dumps(record)
