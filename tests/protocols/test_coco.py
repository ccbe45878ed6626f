"""FID, KID, CMMD and CLIP score of captions against the metrics' own functions, and given statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Job, Sampling, read_folder
from efface.judges.wrappers import NoJudge
from efface.metrics.clip_score import clip_score
from efface.metrics.cmmd import cmmd
from efface.metrics.features import Features, extract, open_extractor
from efface.metrics.fid import fid
from efface.metrics.kid import kid, kid_statistic
from efface.models import Model
from efface.models.clip import open_clip
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.image_scores import to_reference
from efface.protocols.run import run_protocol
from efface.report import write_report

pytestmark = pytest.mark.filterwarnings("ignore:FID of")
CAPTIONS = ("a cat in a house", "a red car", "a bird by the house", "a dog with a ball", "a blue bird")
QUICK = Sampling("ddim", 2, 3.0)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "coco.csv"
    rows = [f"{100 + k},{caption},{k},24,16" for k, caption in enumerate(CAPTIONS)]
    path.write_text("\n".join(("image_id,prompt,seed,width,height", *rows)) + "\n")
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    folder = tmp_path / "val2014"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{k}.jpg")
    return folder


def run(
    model: Model, out: Path, prompts: Path | None, clip: Path, data: Path | None = None, **asked: Any
) -> Evaluation:
    options = {"extractor": "emoji-clip", "clip": str(clip), "draws": 20, **asked.pop("options", {})}
    given: dict[str, Any] = {"prompts": prompts, "data": data, "options": options, **asked}
    eraser, entry = efface.erase(model, "cat", to="dog"), PROTOCOLS.get("coco")
    return run_protocol(entry, model, {"mine": eraser}, NoJudge(), out=out, sampling=QUICK, **given)


def test_scores_are_the_metrics_own(
    tiny_model: Model, tiny_clip: Path, prompts: Path, real: Path, tmp_path: Path
) -> None:
    found = run(tiny_model, tmp_path / "out", prompts, tiny_clip, real)
    options = {"extractor": "emoji-clip", "clip": tiny_clip.name, "draws": 20}
    assert found.provenance["inputs"]["options"] == options, "names, without their place"
    extractor, clip = open_extractor("emoji-clip"), open_clip(str(tiny_clip))
    photographs = extract(extractor, (image.pixels() for image in read_folder(real)))
    images = {name: read_folder(tmp_path / "out" / "images" / name) for name in (BASE, "mine")}
    sets = {
        name: extract(extractor, (i.pixels() for i in drawn), [i.row["prompt"] for i in drawn])
        for name, drawn in images.items()
    }
    for name, drawn in images.items():
        scores = found.erasers[name].metrics
        assert {image.pixels().shape for image in drawn} == {(16, 24, 3)}
        expected = clip_score(clip, (i.pixels() for i in drawn), [i.row["prompt"] for i in drawn])
        assert scores["clip_score"].value == pytest.approx(expected.value, abs=1e-6)
        assert scores["fid"].value == pytest.approx(fid(sets[name], photographs, 20).value, abs=1e-6)
        assert scores["kid"].value == pytest.approx(kid(sets[name], photographs, 20).value, abs=1e-6)
        assert scores["cmmd"].value == pytest.approx(cmmd(sets[name], photographs, 20).value, abs=1e-6)
        assert scores["fid"].extractor == extractor.version
    mine, base = found.erasers["mine"], found.erasers[BASE]
    assert mine.metrics["fid_to_base"].value == pytest.approx(fid(sets["mine"], sets[BASE], 20).value, abs=1e-6)
    assert "fid_to_base" not in base.metrics
    for metric in ("clip_score", "fid", "kid", "cmmd"):
        before = mine.base[metric].value
        assert before == pytest.approx(base.metrics[metric].value, abs=1e-9)
        assert mine.change[metric].value == pytest.approx(mine.metrics[metric].value - before, abs=1e-9)
    assert found.judge.name == "none"
    assert found.as_dict()["erasers"]["mine"]["metrics"]["fid"]["extractor"] == extractor.version


def test_statistics_stand_in_for_pictures(
    tiny_model: Model, tiny_clip: Path, prompts: Path, real: Path, tmp_path: Path
) -> None:
    extractor = open_extractor("emoji-clip")
    photographs = extract(extractor, (image.pixels() for image in read_folder(real))).values
    stored = tmp_path / "val2014.npz"
    np.savez(stored, mu=photographs.mean(0), sigma=np.cov(photographs, rowvar=False))
    by_pictures = run(tiny_model, tmp_path / "one", prompts, tiny_clip, real).erasers["mine"].metrics["fid"]
    found = run(tiny_model, tmp_path / "two", prompts, tiny_clip, stored).erasers["mine"].metrics
    assert found["fid"].value == pytest.approx(by_pictures.value, abs=1e-5)
    assert "statistics" in found["fid"].note
    assert not {"kid", "cmmd"} & found.keys(), "which take no statistics"


def test_n_spreads_over_the_file_and_images_that_fail_are_errors(
    tiny_model: Model, tiny_clip: Path, prompts: Path, tmp_path: Path, spoiled: None
) -> None:
    found = run(tiny_model, tmp_path / "out", prompts, tiny_clip, n=3)
    drawn = read_folder(tmp_path / "out" / "images" / "mine")
    assert [image.row["prompt"] for image in drawn] == [CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]]
    assert set(found.erasers["mine"].metrics) == {"clip_score", "fid_to_base"}, "there are no real pictures"
    assert found.erasers["mine"].metrics["clip_score"].n == 2
    for result in found.erasers.values():
        assert result.errors == 1
        assert [image.job.prompt for image in result.failed_images] == [CAPTIONS[0]]
        assert "cannot be read" in result.failed_images[0].error
    html = write_report(found, tmp_path / "out").read_text(encoding="utf-8")
    assert 'id="unanswered"' in html
    # The error names the file, which has another name for each model.
    assert all(html.count(result.failed_images[0].error) == 1 for result in found.erasers.values())


def test_without_the_unedited_models_images_theirs_is_not_the_edited_ones_distance() -> None:
    rng = np.random.default_rng(0)
    after = {Job(f"a cat {k}", k): rng.normal(size=3) for k in range(4)}
    reference = Features(rng.normal(size=(4, 3)), "random")
    assert to_reference(kid, kid_statistic(), after, {}, reference) is None
    alone = to_reference(kid, kid_statistic(), after, None, reference)
    assert alone is not None
    assert alone.before is None


def test_bad_input(tiny_model: Model, tiny_clip: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--prompts"):
        run(tiny_model, tmp_path / "out", None, tiny_clip)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "none.npz", means=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object), sigma=np.eye(3))
    for name in ("none", "pickle"):
        with pytest.raises(BadInput, match=rf"{name}\.npz"):
            run(tiny_model, tmp_path / "out", prompts, tiny_clip, tmp_path / f"{name}.npz")
    with pytest.raises(BadInput, match="3 features"):
        run(tiny_model, tmp_path / "out", prompts, tiny_clip, tmp_path / "other.npz")
    with pytest.raises(BadInput, match="'draws' is 3"):
        run(tiny_model, tmp_path / "out", prompts, tiny_clip, options={"draws": 3})
