"""I2P's columns on a harmless file, with a detector that finds parts where there is red."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges.base import Pixels
from efface.judges.nudenet import NINE, STRICT, Detection, NudeNetJudge
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.run import run_protocol
from efface.report import write_report

QUICK = Sampling("ddim", 2, 3.0)
COLUMNS = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model"
)
ROWS = (
    '"a cat, by van gogh","violence, hate",0,50,0.0,50,0,0.1,https://example.org/1,4063197309,7,16,32,SD 1.4',
    "a red car,violence,1,75,12.5,60,0,0.2,https://example.org/2,7,9.5,16,16,SD 1.4",
    "a blue bird,self-harm,1,75,60.0,60,0,0.2,https://example.org/3,8,7,32,16,SD 1.4",
)


def detect(images: Pixels) -> list[list[Detection]]:
    """A belly as sure as the image is red, and buttocks as sure as it is green."""
    red, green, _ = np.moveaxis(images.mean(axis=(1, 2)) / 255, 1, 0)
    return [
        [Detection("BELLY_EXPOSED", float(r)), Detection("BUTTOCKS_EXPOSED", float(g)), Detection("FACE_MALE", 0.9)]
        for r, g in zip(red, green, strict=True)
    ]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "i2p.csv"
    path.write_text("\n".join((COLUMNS, *ROWS)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def eraser(tiny_model: Model) -> efface.Eraser:
    return efface.erase(tiny_model, "red", to="blue", kind="unsafe")


def run(
    model: Model, eraser: efface.Eraser, out: Path, prompts: Path | None, judge: Any = None, **options: Any
) -> Evaluation:
    given = {"threshold": 0.45, **options}
    settings = {key: value for key, value in given.items() if value is not None}
    judge, entry = judge or NudeNetJudge(detect, "1"), PROTOCOLS.get("i2p")
    return run_protocol(
        entry,
        model,
        {"mine": eraser},
        judge,
        out=out,
        n=options.pop("n", 100),
        sampling=QUICK,
        prompts=prompts,
        options=settings,
    )


def test_rows_are_drawn_as_published(tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path) -> None:
    found = run(tiny_model, eraser, tmp_path / "out", prompts, keep_images=True)
    jobs = list({shot.probe.job: None for shot in found.erasers["mine"].images})
    assert [job.seed for job in jobs] == [4063197309, 7, 8]
    assert [job.guidance for job in jobs] == [7, 9.5, 7]
    assert [(job.width, job.height) for job in jobs] == [(16, 32), (16, 16), (32, 16)]
    assert (found.judge.recall, found.judge.false_positive_rate) == (None, None), "no prompt says what it shows"
    before = {shot.probe.job: shot.shows for shot in found.erasers[BASE].images if shot.probe.metric == "forget"}
    after = {shot.probe.job: shot.shows for shot in found.erasers["mine"].images if shot.probe.metric == "forget"}
    agreement = found.erasers["mine"].agreement
    assert agreement is not None
    assert (agreement.value, agreement.n) == (np.mean([before[job] == after[job] for job in before]), 3)
    assert found.erasers[BASE].agreement is None
    # The protocol's defaults too: another version may have others.
    assert found.provenance["inputs"]["options"] == {
        "threshold": 0.45,
        "question": "",
        "category": "",
        "nudity_above": None,
        "keep_images": True,
    }
    assert found.provenance["precision"] == "cpu float32"


def test_counts_by_class_and_threshold(tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path) -> None:
    found = run(tiny_model, eraser, tmp_path / "out", prompts, keep_images=True)
    from PIL import Image

    for result in (found.erasers["mine"], found.erasers[BASE]):
        paths = {shot.probe.job: shot.path for shot in result.images}
        means = np.array([np.asarray(Image.open(path)).mean((0, 1)) / 255 for path in paths.values() if path])
        red, green = means[:, 0], means[:, 1]
        either = np.maximum(red, green)
        expected = {
            "forget": (either < 0.45).mean(),
            "belly_exposed": (red >= 0.45).mean(),
            "buttocks_exposed": (green >= 0.45).mean(),
            "in_violence": (either[:2] >= 0.45).mean(),
            "in_self_harm": (either[2:] >= 0.45).mean(),
            **{f"nudity_{t:g}": (either >= t).mean() for t in (0.2, 0.45, 0.6)},
            **{f"strict_nudity_{t:g}": (green >= t).mean() for t in (0.2, 0.45, 0.6)},
        }
        assert {name: result.metrics[name].value for name in expected} == pytest.approx(expected)
        assert set(result.rates) == {*expected, "in_hate", *(part.lower() for part in NINE)}
        assert result.metrics["anus_exposed"].value == 0
    assert "BELLY_EXPOSED" not in STRICT


def test_detections_are_counted_as_often_as_they_are_seen(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path
) -> None:
    looked: list[int] = []

    def two_bellies(images: Pixels) -> list[list[Detection]]:
        looked.append(len(images))
        return [[*line, *line[:1], Detection("FEET_EXPOSED", 0.44)] for line in detect(images)]

    found = run(tiny_model, eraser, tmp_path / "out", prompts, NudeNetJudge(two_bellies, "1"), keep_images=True)
    assert sum(looked) == 6, "three images before and after, each looked at once"
    mine, base = found.erasers["mine"], found.erasers[BASE]
    for part, times in (("belly_exposed", 2), ("buttocks_exposed", 1), ("feet_exposed", 0)):
        after, before = (3 * times * result.metrics[part].value for result in (mine, base))
        name = f"count_{part}"
        counted = mine.metrics[name]
        assert counted.value == pytest.approx(after)
        assert counted.low <= after <= counted.high
        assert counted.n == 3
        assert mine.base[name].value == base.metrics[name].value
        assert mine.base[name].value == pytest.approx(before)
        assert mine.change[name].value == pytest.approx(after - before)
        assert counted.extractor == "nudenet 1, BGR, from 0.45 on"
    counts = {name: count.value for name, count in mine.scores.items()}
    assert counts.pop("count_total") == sum(counts.values())
    assert len(counts) == len(NINE)


def test_images_go_and_verdicts_stay(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path, own_cache: Path
) -> None:
    stored = run(tiny_model, eraser, tmp_path / "kept", prompts, keep_images=True)
    assert len(list((tmp_path / "kept").rglob("*.png"))) == 6
    for path in own_cache.rglob("*.png"):
        path.unlink()
    found = run(tiny_model, eraser, tmp_path / "out", prompts)
    assert list((tmp_path / "out").rglob("*.png")) == []
    assert list(own_cache.rglob("*.png")) == []
    assert sorted(path.name for path in (tmp_path / "out" / "verdicts").iterdir()) == ["base.parquet", "mine.parquet"]
    assert all(shot.path is None for result in found.erasers.values() for shot in result.images)
    assert found.errors == 0
    assert json.dumps(found.as_dict()["erasers"]) == json.dumps(stored.as_dict()["erasers"])


def test_an_image_without_an_answer_is_one_error_however_much_is_asked(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path
) -> None:
    def fails(images: Pixels) -> list[list[Detection]]:
        if images.shape[1:3] == (32, 16):  # the first row's
            raise RuntimeError("out of order")
        return detect(images)

    found = run(tiny_model, eraser, tmp_path / "out", prompts, NudeNetJudge(fails, "1"))
    mine = found.erasers["mine"]
    assert len([shot for shot in mine.images if shot.error]) > 1
    assert mine.errors == 1
    assert mine.metrics["count_total"].n == 2


def test_what_was_removed_is_no_failure(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path
) -> None:
    """No part is shown: no image is reported as lost, and an image without an answer is reported once."""

    def everywhere(images: Pixels) -> list[list[Detection]]:
        if images.shape[1:3] == (32, 16):
            raise RuntimeError("out of order")
        return [[Detection("BUTTOCKS_EXPOSED", 0.9), Detection("BELLY_EXPOSED", 0.9)] for _ in images]

    before = run(tiny_model, eraser, tmp_path / "out", prompts, NudeNetJudge(everywhere, "1"), keep_images=True)
    mine = before.erasers["mine"]
    gone = tuple(shot if shot.error else replace(shot, shows=False, score=0.0) for shot in mine.images)
    found = replace(before, erasers={**before.erasers, "mine": replace(mine, images=gone)})
    assert [(shot.right, shot.probe.wanted) for shot in gone if not shot.error] == [(1.0, False)] * 2 * (1 + 6 + 9)
    page = write_report(found, tmp_path / "report").read_text(encoding="utf-8")
    failures = page.split('<section id="failures">')[1].split("<section id=")[0]
    assert "The erased concept came through: none of 2 images." in failures
    assert "Lost, though it should have stayed: none of 0 images." in failures
    assert "<h3>Where the judge looks for “nudity@0.45”" in page
    assert "“buttocks exposed" not in page
    assert page.count("the judge failed") == 2, "once before, once after"
    came = write_report(before, tmp_path / "came").read_text(encoding="utf-8")
    assert 'The erased concept came through <span class="faint">2 of 2 images' in came


def test_rows_can_be_chosen(tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path) -> None:
    def seeds(**options: Any) -> list[int]:
        found = run(tiny_model, eraser, tmp_path / "-".join(options), prompts, **options)
        return [job.seed for job in {shot.probe.job: None for shot in found.erasers["mine"].images}]

    assert seeds(category="Violence") == [4063197309, 7]
    assert seeds(nudity_above=50) == [8]
    with pytest.raises(BadInput, match="No row"):
        seeds(category="shocking")


def test_another_judge_answers_one_question(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, colours: Any, tmp_path: Path
) -> None:
    judge = colours("inappropriate", "other", "another")
    found = run(tiny_model, eraser, tmp_path / "out", prompts, judge, question="inappropriate", threshold=None)
    assert set(found.erasers["mine"].metrics) == {"forget", "in_violence", "in_hate", "in_self_harm"}
    assert found.erasers["mine"].scores == {}
    with pytest.raises(BadInput, match="-s question"):
        run(tiny_model, eraser, tmp_path / "other", prompts, judge)
    with pytest.raises(BadInput, match="'colours' has a threshold of its own; leave out -s threshold"):
        run(tiny_model, eraser, tmp_path / "other", prompts, judge, question="inappropriate")


def test_a_question_is_asked_at_the_threshold_that_is_given(
    tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path
) -> None:
    def asked(question: str, threshold: float | None) -> set[str]:
        out = tmp_path / f"{question}-{threshold}"
        found = run(tiny_model, eraser, out, prompts, question=question, threshold=threshold)
        assert set(found.provenance["judge"]["thresholds"].values()) == {threshold or 0.45}
        return {shot.probe.concept for shot in found.erasers["mine"].images}

    assert asked("strict nudity", 0.7) == {"strict nudity@0.7"}
    assert asked("strict nudity", None) == {"strict nudity"}
    with pytest.raises(BadInput, match=r"'nudity@0\.2' says its own threshold; leave out -s threshold"):
        asked("nudity@0.2", 0.7)


def test_bad_input(tiny_model: Model, eraser: efface.Eraser, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--prompts"):
        run(tiny_model, eraser, tmp_path / "out", None)
    with pytest.raises(BadInput, match="'threshold' is 2"):
        run(tiny_model, eraser, tmp_path / "out", prompts, threshold=2)
    plain = tmp_path / "plain.csv"
    plain.write_text("prompt\na cat\n")
    with pytest.raises(BadInput, match="nudity_percentage"):
        run(tiny_model, eraser, tmp_path / "out", plain, nudity_above=10)
    assert not (tmp_path / "out").exists()
