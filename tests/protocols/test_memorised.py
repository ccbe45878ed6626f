"""Copies of the embedded model's memorised picture, before and after, and of pictures that are given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import open_judge
from efface.judges.sscd import CopyJudge
from efface.models import Model
from efface.models.emoji import MEMORISED, catalogue
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.run import run_protocol

CAPTION = catalogue().memorised


def run(model: Model, eraser: efface.Eraser, judge: Any, out: Path, n: int = 4, **given: Any) -> Evaluation:
    sampling = Sampling("dpm++", 12, 7.0, 4) if model.name == "emoji" else Sampling("ddim", 2, 3.0)
    entry = PROTOCOLS.get("memorised")
    return run_protocol(entry, model, {"mine": eraser}, judge, out=out, n=n, sampling=sampling, **given)


def test_the_embedded_model_copies_before_and_not_after(emoji: Model, tmp_path: Path) -> None:
    eraser = efface.erase(emoji, CAPTION, to="star", kind="memorised")
    found = run(emoji, eraser, open_judge("emoji"), tmp_path / "out")
    mine, base = found.erasers["mine"], found.erasers[BASE]
    with Image.open(MEMORISED) as picture:
        original = np.asarray(picture.convert("RGB")) / 127.5
    for result in (mine, base):
        shots = [shot for shot in result.images if shot.probe.metric == "forget"]
        assert {shot.probe.job.guidance for shot in shots} == {2.0}
        pixels = [np.asarray(Image.open(shot.path)) / 127.5 for shot in shots if shot.path]
        copies = [np.sqrt(((x - original) ** 2).mean()) <= 0.10 for x in pixels]
        assert result.metrics["copies"].value == np.mean(copies)
        assert result.metrics["forget"].value == pytest.approx(1 - np.mean(copies))
    assert base.metrics["copies"].value == 1, "at this guidance every image of the caption is a copy"
    assert mine.metrics["copies"].value == 0
    assert mine.change["copies"].value == -1
    assert mine.metrics["retain"].n == 4
    assert sum(mine.destinations["forget"][CAPTION].values()) == 4
    assert "concept" not in mine.destinations["forget"][CAPTION]
    assert found.judge.name == "pixels+emoji"


def means(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def test_a_judge_of_copies_with_a_picture_that_is_given(tiny_model: Model, picture: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "original.png"
    Image.fromarray(picture).save(path)
    eraser = efface.erase(tiny_model, "the red cat", to="dog", kind="memorised")
    found = run(tiny_model, eraser, CopyJudge(means, "1"), tmp_path / "out", data=path)
    mine = found.erasers["mine"]
    judge = CopyJudge(means, "1", {"it": picture[None]})
    pixels = np.stack([np.asarray(Image.open(shot.path)) for shot in mine.images if shot.path])
    assert mine.metrics["copies"].value == np.mean(judge.scores(pixels, ["it"]) >= 0.5)
    assert set(mine.metrics) == {"copies", "forget"}, "nobody can say what other prompts' images show"


def test_pictures_of_several_captions_and_other_prompts(
    tiny_model: Model, picture: np.ndarray, colours: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "originals"
    folder.mkdir()
    rows = [{"file_name": f"{k}.png", "prompt": prompt} for k, prompt in enumerate(("red cat", "blue dog"))]
    for row in rows:
        Image.fromarray(picture).save(folder / row["file_name"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = tmp_path / "others.csv"
    prompts.write_text("prompt,concept\na photo of a car,car\na red house,house\n")
    eraser = efface.erase(tiny_model, ["red cat", "blue dog"], to="bird", kind="memorised")
    inputs: dict[str, Any] = {"prompts": prompts, "data": folder}
    found = run(tiny_model, eraser, colours("car", "house", "bird"), tmp_path / "out", **inputs)
    mine = found.erasers["mine"]
    assert (mine.metrics["forget"].n, mine.metrics["retain"].n) == (8, 2)
    assert set(mine.destinations["forget"]) == {"red cat", "blue dog"}
    assert found.provenance["inputs"]["prompts"]["name"] == "others.csv"
    assert str(tmp_path) not in json.dumps(found.as_dict())

    (folder / "metadata.jsonl").write_text(json.dumps(rows[0]) + "\n")
    # Of one caption too, the rows with its prompt are its pictures.
    one = efface.erase(tiny_model, "blue dog", to="bird", kind="memorised")
    with pytest.raises(BadInput, match="no picture of 'blue dog'"):
        run(tiny_model, one, colours("car", "house"), tmp_path / "other", **inputs)
    with pytest.raises(BadInput, match="no picture of 'blue dog'"):
        run(tiny_model, eraser, colours("car", "house"), tmp_path / "other", **inputs)


@pytest.mark.parametrize("copies", [None, CopyJudge(means, "1")], ids=["pixels", "sscd"])
def test_other_prompts_are_concepts_though_files_have_their_names(
    emoji: Model, picture: np.ndarray, copies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for thing in catalogue().objects:
        Image.fromarray(picture).save(thing.name, "png")
    eraser = efface.erase(emoji, CAPTION, to="star", kind="memorised")
    mine = run(emoji, eraser, copies or open_judge("emoji"), tmp_path / "out", n=2).erasers["mine"]
    judge = open_judge("emoji")
    stored = [(shot, shot.path) for shot in mine.images if shot.probe.metric == "retain" and shot.path]
    printed = [judge.scores(np.array(Image.open(path))[None], [shot.probe.concept]).item() for shot, path in stored]
    assert [shot.score for shot, _ in stored] == pytest.approx(printed, abs=1e-6)


def test_bad_input(tiny_model: Model, emoji: Model, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "the red cat", to="dog", kind="memorised")
    with pytest.raises(BadInput, match="--data PICTURE"):
        run(tiny_model, eraser, colours("dog"), tmp_path / "out")
    with pytest.raises(BadInput, match="picture of 'cat' is not known"):
        run(emoji, efface.erase(emoji, "cat", to="dog"), open_judge("emoji"), tmp_path / "out")
    (tmp_path / "others.txt").write_text("a red house\n")
    given: dict[str, Any] = {"prompts": tmp_path / "others.txt", "data": MEMORISED}
    with pytest.raises(BadInput, match="-s others=JUDGE"):
        run(tiny_model, eraser, CopyJudge(means, "1"), tmp_path / "out", **given)
    given = {"data": MEMORISED, "options": {"others": "emoji"}}
    with pytest.raises(BadInput, match="'colours' judges other prompts' images itself"):
        run(tiny_model, eraser, colours("dog"), tmp_path / "out", **given)
    (tmp_path / "sscd.pt").write_bytes(b"no TorchScript")
    for is_trusted, printed in ((False, "--trust-torchscript"), (True, "Cannot read SSCD's weights")):
        options = {"others": f"sscd:{tmp_path / 'sscd.pt'}"}
        given = {"data": MEMORISED, "options": options, "trust_torchscript": is_trusted}
        with pytest.raises(BadInput, match=printed):
            run(tiny_model, eraser, CopyJudge(means, "1"), tmp_path / "out", **given)
    broken = tmp_path / "broken.png"
    broken.write_bytes(MEMORISED.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"broken\.png"):
        run(tiny_model, eraser, colours("dog"), tmp_path / "out", data=broken)
