"""Two folders are compared by distances and scores, and only what is comparable is ranked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efface
from efface.cli.run import run
from efface.errors import BadInput
from efface.generation import Job
from efface.metrics.rates import wilson
from efface.protocols import BASE, Evaluation, Result
from efface.protocols.plan import JudgedImage, Probe
from efface.protocols.results import Calibration


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images of one prompt and seeds without and with an eraser."""
    folder = tmp_path_factory.mktemp("compared")
    efface.generate(["a cat", "a dog"], n=3, steps=3, folder=folder / "a")
    efface.generate(["a cat", "a dog"], n=3, steps=3, folder=folder / "b", eraser=efface.erase("emoji", "cat"))
    return folder / "a", folder / "b"


def test_two_folders_have_distances_and_scores(folders, capsys):
    assert run(["compare", *map(str, folders), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["images"], answer["pairs"], answer["errors"]) == ([6, 6], 6, 0)
    assert answer["distances"].keys() == {"fid", "kid", "cmmd"}
    for number in (*answer["distances"].values(), *answer["clip_score"].values()):
        assert number["low"] < number["high"]
    assert answer["clip_score"].keys() == {"first", "second", "change"}
    difference = answer["clip_score"]["second"]["value"] - answer["clip_score"]["first"]["value"]
    assert answer["clip_score"]["change"]["value"] == pytest.approx(difference)
    assert "lpips" in answer["missing"]


def test_a_folder_and_itself_are_at_distance_0_with_an_interval(folders):
    same = efface.compare(folders[0], folders[0], metrics=["fid", "cmmd"])
    for number in same.distances.values():
        assert number.value == pytest.approx(0, abs=1e-6)
        assert number.high > number.low


def test_folders_of_plain_pictures_pair_by_file_name(folders, tmp_path):
    for name, source in zip("ab", folders, strict=True):
        (tmp_path / name).mkdir()
        for index, file in enumerate(sorted(source.glob("*.png"))[:4]):
            shutil.copy(file, tmp_path / name / f"{index}.png")
    result = efface.compare(tmp_path / "a", tmp_path / "b", extractor="emoji-clip")
    assert result.pairs == 4
    assert "clip_score" in result.missing
    (tmp_path / "b" / "0.png").write_bytes(b"no picture")
    broken = efface.compare(tmp_path / "a", tmp_path / "b", extractor="emoji-clip", metrics=["kid"])
    assert (broken.images, broken.pairs, broken.errors) == ((4, 3), 3, 1)


def test_images_of_every_embedded_model_have_its_weights(folders, tmp_path):
    for name, source in zip("ab", folders, strict=True):
        shutil.copytree(source, tmp_path / name)
        metadata = tmp_path / name / "metadata.jsonl"
        metadata.write_text(metadata.read_text().replace('"model": "emoji"', '"model": "emoji-flow"'))
    result = efface.compare(tmp_path / "a", tmp_path / "b", metrics=["kid", "clip_score"])
    assert result.distances["kid"].extractor == efface.compare(*folders, metrics=["kid"]).distances["kid"].extractor
    assert result.clip_score == efface.compare(*folders, metrics=["clip_score"]).clip_score


def test_a_clip_that_is_not_here_leaves_out_its_score(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("efface.api.compare._CLIP", str(tmp_path / "no-clip"))
    for name, source in zip("ab", folders, strict=True):
        shutil.copytree(source, tmp_path / name)
        metadata = tmp_path / name / "metadata.jsonl"
        metadata.write_text(metadata.read_text().replace('"model": "emoji"', '"model": "another"'))
    result = efface.compare(tmp_path / "a", tmp_path / "b", extractor="emoji-clip")
    assert result.distances.keys() == {"fid", "kid", "cmmd"}
    assert "no-clip" in result.missing["clip_score"]
    with pytest.raises(BadInput, match="no-clip"):
        efface.compare(tmp_path / "a", tmp_path / "b", metrics=["clip_score"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["fidd"]}, "Unknown metric 'fidd'"),
        ({"metrics": ["lpips"]}, "--lpips"),
        ({"extractor": "nothing"}, "Unknown feature extractor 'nothing'"),
        ({"lpips": ["gone.pth"]}, "gone.pth"),
    ],
)
def test_bad_input(folders, options, message):
    with pytest.raises(BadInput, match=message):
        efface.compare(*folders, **options)


def test_too_few_images(folders):
    one = [Image.fromarray(np.zeros((64, 64, 3), np.uint8))]
    with pytest.raises(BadInput, match="The second set has 1 readable image"):
        efface.compare(folders[0], one)
    with pytest.raises(BadInput, match="not a folder"):
        efface.compare(folders[0], folders[1] / "gone")
    alike = one * 3
    with pytest.raises(BadInput, match="Cannot compute kid: A distance of 3 images has no interval"):
        efface.compare(alike, alike, metrics=["kid"], extractor="emoji-clip")


def result(err: int, *concepts: str, parts: tuple[str, ...] = ("forget", "retain")) -> Result:
    images = tuple(JudgedImage(Probe("forget", name, Job(name)), None, False, 0.0) for name in concepts)
    return Result({"err": wilson(err, 100)}, images=images, err_parts=parts)


@pytest.mark.parametrize(
    ("second", "ranking"),
    [
        (result(90, "cat"), ("one", "two")),
        (result(100, "cat"), ("two", "one")),
        (result(100, "dog"), ()),
        (result(100, "cat", "dog"), ()),
        (result(100, "cat", parts=("forget",)), ()),
    ],
)
def test_only_erasers_of_one_concept_and_the_same_rates_are_ranked(second, ranking):
    results = {BASE: result(0), "one": result(99, "cat"), "two": second}
    assert Evaluation("err", Calibration("", "", None, None), results, {}, overall="err").ranking == ranking
