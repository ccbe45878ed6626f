"""Concept Ablation's numbers against the metrics' own functions on the same images, and its published files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import open_judge
from efface.metrics.clip_accuracy import clip_accuracy
from efface.metrics.clip_score import ABLATION, clip_score
from efface.metrics.features import extract, open_extractor
from efface.metrics.kid import kid_statistic
from efface.models import Model
from efface.models.clip import open_clip
from efface.protocols import BASE, PROTOCOLS, Evaluation, EvaluationInput, JudgedImage, Result
from efface.protocols.ablation_sets import sets_for
from efface.protocols.run import run_protocol
from efface.request.record import Concept, Request

QUICK = Sampling("ddim", 2, 7.0, batch_size=8)


def run(model: Model, eraser: efface.Eraser, judge: Any, out: Path, n: int = 2, **options: Any) -> Evaluation:
    entry, data = PROTOCOLS.get("ablation"), options.pop("data", None)
    return run_protocol(entry, model, {"mine": eraser}, judge, out=out, n=n, sampling=QUICK, data=data, options=options)


@pytest.fixture(scope="module")
def found(emoji: Model, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """A cat towards a dog; tiger and lion are its other neighbours."""
    eraser = efface.erase(emoji, "cat", to="dog")
    return run(emoji, eraser, open_judge("emoji"), tmp_path_factory.mktemp("ablation") / "out", n=3)


def shown(result: Result, metric: str, concept: str = "") -> list[JudgedImage]:
    return [s for s in result.images if s.probe.metric == metric and concept in ("", s.probe.concept)]


def pixels(shots: list[JudgedImage]) -> list[np.ndarray]:
    return [np.asarray(Image.open(shot.path)) for shot in shots if shot.path]


def test_the_sets(found: Evaluation) -> None:
    mine = found.erasers["mine"]
    sizes = {metric: len(shown(mine, metric)) for metric in ("forget", "anchor", "adjacent")}
    assert sizes == {"forget": 12, "anchor": 12, "adjacent": 6}, "4 n, 4 n, and n of each hard negative"
    assert {shot.probe.concept for shot in shown(mine, "adjacent")} == {"tiger", "lion"}
    assert {shot.probe.guide for shot in shown(mine, "forget")} == {"dog"}
    assert sum(mine.destinations["forget"]["cat"].values()) == 12
    assert set(mine.rates) == {"forget", "anchor", "hard_negative", "retain"}
    assert mine.metrics["retain"].n == 18


def test_clip_score_and_accuracy_are_the_metrics_own(found: Evaluation) -> None:
    clip, mine, base = open_clip(), found.erasers["mine"], found.erasers[BASE]
    target, negative = shown(mine, "forget"), shown(mine, "adjacent")
    prompts = [shot.probe.job.prompt for shot in target]
    score = clip_score(clip, pixels(target), ["cat"] * len(target), ABLATION)
    assert mine.metrics["target_clip_score"].value == pytest.approx(score.value, abs=1e-6)
    wins = clip_accuracy(clip, pixels(target), "cat", "dog", prompts)
    assert mine.metrics["target_clip_accuracy"] == wins
    printed = [shot.probe.concept for shot in negative]
    score = clip_score(clip, pixels(negative), printed, ABLATION)
    assert mine.metrics["hard_negative_clip_score"].value == pytest.approx(score.value, abs=1e-6)
    before = clip_score(clip, pixels(shown(base, "forget")), ["cat"] * len(target), ABLATION)
    name = "target_clip_score"
    assert mine.base[name].value == pytest.approx(before.value, abs=1e-6)
    assert base.metrics[name] == mine.base[name]
    assert mine.change[name].value == pytest.approx(mine.metrics[name].value - mine.base[name].value, abs=1e-9)
    assert "anchor_clip_accuracy" not in mine.metrics, "of the anchor against itself"


def test_kid_is_to_the_unedited_models_images_and_averages_the_hard_negatives(found: Evaluation) -> None:
    extractor, mine, base = open_extractor("emoji-clip"), found.erasers["mine"], found.erasers[BASE]

    def of(metric: str, concept: str) -> float:
        sets = [extract(extractor, pixels(shown(result, metric, concept))) for result in (mine, base)]
        # The value alone: two images have no interval.
        return kid_statistic()(*(one.values for one in sets), *(np.ones((1, len(one))) for one in sets))[0]

    assert mine.metrics["target_kid"].value == pytest.approx(of("forget", "cat"), abs=1e-6)
    average = np.mean([of("adjacent", "tiger"), of("adjacent", "lion")])
    assert mine.metrics["hard_negative_kid"].value == pytest.approx(average, abs=1e-6)
    assert "mean over 2 sets" in mine.metrics["hard_negative_kid"].note
    assert not any(metric.endswith("kid") for metric in base.metrics)
    assert {m.extractor for name, m in mine.metrics.items() if name.endswith("kid")} == {extractor.version}


def test_sets_of_the_embedded_world(emoji: Model) -> None:
    asked = EvaluationInput(emoji, {}, open_judge("emoji"), QUICK, 1)

    def names(concept: Concept) -> tuple[list[str], bool]:
        sets = sets_for(asked, concept)
        return [named.name for named in (sets.target, sets.anchor, *sets.hard_negatives)], sets.is_style

    assert names(Concept(name="kitten")) == (["kitten", "dog", "tiger", "lion"], False)
    assert names(Concept(name="cat", guide="star", adjacent=("cat", "house"))) == (["cat", "star", "house"], False)
    styles, is_style = names(Concept(name="line drawing"))
    assert (styles[:2], is_style) == (["line drawing", "flat"], True)
    assert set(styles[2:]) == {"3d", "outlined", "stencil", "pixel art", "blueprint"}


def test_what_is_erased_too_must_not_survive(emoji: Model, tmp_path: Path) -> None:
    asked = EvaluationInput(emoji, {}, open_judge("emoji"), QUICK, 1)

    def negatives(concept: Concept, *erased: str) -> list[str]:
        return [named.name for named in sets_for(asked, concept, erased).hard_negatives]

    cat, dog, flat = (Concept(name=name, guide="star") for name in ("cat", "puppy", "flat style"))
    assert negatives(cat, "cat", "puppy") == ["tiger", "lion"]
    assert negatives(dog, "cat", "puppy") == ["rabbit"], "not the cat"
    assert negatives(dog, "puppy") == ["cat", "rabbit"]
    assert "line art" not in negatives(flat, "flat style", "line drawing")
    assert "line art" in negatives(flat, "flat style")
    with pytest.raises(BadInput, match="The anchor of 'cat' is 'dog', which is erased too; name another"):
        run(emoji, efface.erase(emoji, ["cat", "puppy"]), open_judge("emoji"), tmp_path / "out")
    asked = replace(asked, data=published(tmp_path))
    assert negatives(Concept(name="blue cat"), "blue cat", "red cat") == ["apple cat"]
    with pytest.raises(BadInput, match="is 'cat', which is erased too; change it in"):
        negatives(Concept(name="blue cat"), "blue cat", "a cat")
    assert not (tmp_path / "out").exists()


def published(folder: Path) -> Path:
    """The reference's assets, with other names in them."""
    data = folder / "assets"
    (data / "eval_prompts").mkdir(parents=True)
    entries = {
        "style": {"van gogh": {"target": "van gogh", "anchor": "painting", "hard_negative": ["picasso line"]}},
        "object": {"blue cat": {"target": "blue cat", "anchor": "cat", "hard_negative": ["red cat", "apple cat"]}},
    }
    (data / "eval.json").write_text(json.dumps(entries))
    texts = {
        "cat": "what a cat\n\nthe cat",
        "van_gogh": "a house by van gogh",
        "painting": "a painting",
        "picasso": "art",
    }
    for name, text in texts.items():
        (data / "eval_prompts" / f"{name}_eval.txt").write_text(text)
    return data


def test_the_published_files(tiny_model: Model, tiny_clip: Path, colours: Any, tmp_path: Path) -> None:
    data = published(tmp_path)
    judge = colours("blue cat", "cat", "red cat", "van gogh")
    clip: dict[str, Any] = {"clip": str(tiny_clip), "extractor": "emoji-clip"}
    found = run(tiny_model, efface.erase(tiny_model, "Blue Cat", to="cat"), judge, tmp_path / "one", data=data, **clip)
    mine = found.erasers["mine"]
    prompts = {shot.probe.job.prompt for shot in mine.images}
    assert prompts == {"what a blue cat", "the blue cat", "what a cat", "the cat", "what a red cat", "the red cat"}
    assert {shot.probe.job.guidance for shot in mine.images} == {6.0}
    assert "hard_negative_kid" not in mine.metrics, "two images of each have no interval"
    assert mine.metrics["hard_negative_fid"].n == 4, "also of what the judge does not know"
    assert "apple cat" not in {shot.probe.concept for shot in mine.images}

    style = efface.erase(tiny_model, "van gogh", to="art", kind="style")
    found = run(tiny_model, style, judge, tmp_path / "two", data=data / "eval.json", **clip)
    assert "a house by van gogh" in {shot.probe.job.prompt for shot in found.erasers["mine"].images}
    with pytest.raises(BadInput, match="has no concept 'golf ball'; it has: van gogh, blue cat"):
        run(tiny_model, efface.erase(tiny_model, "golf ball"), judge, tmp_path / "three", data=data, **clip)
    (data / "eval_prompts" / "cat_eval.txt").unlink()
    with pytest.raises(BadInput, match=r"cat_eval\.txt"):
        run(tiny_model, efface.erase(tiny_model, "blue cat"), judge, tmp_path / "three", data=data, **clip)


def test_an_image_that_cannot_be_read_is_an_error_although_the_judge_does_not_know_it(
    tiny_model: Model, tiny_clip: Path, colours: Any, tmp_path: Path, spoiled: None
) -> None:
    concept = Concept(name="cat", guide="dog", adjacent=("parrot",))
    request = Request(concepts=(concept,))
    found = run_protocol(
        PROTOCOLS.get("ablation"),
        tiny_model,
        {"mine": efface.erase(tiny_model, request)},
        colours("cat", "dog", "car"),
        out=tmp_path / "out",
        n=3,
        sampling=QUICK,
        options={"clip": str(tiny_clip), "extractor": "emoji-clip"},
    )
    for result in found.erasers.values():
        assert result.metrics["hard_negative_clip_score"].n == 2
        assert result.errors == 1
        assert "parrot" in result.failed_images[0].job.prompt


def test_bad_input(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no anchor"):
        run(tiny_model, efface.erase(tiny_model, "cat"), colours("cat"), tmp_path / "out")
    (tmp_path / "eval.json").write_text('{"style": {"cat": 3}}')
    with pytest.raises(BadInput, match=r"eval\.json"):
        run(tiny_model, efface.erase(tiny_model, "cat"), colours("cat"), tmp_path / "out", data=tmp_path)
    long = "a" * 300
    entry = {"target": long, "anchor": "art", "hard_negative": []}
    (tmp_path / "eval.json").write_text(json.dumps({"style": {"cat": entry}}))
    (tmp_path / "eval_prompts").mkdir()
    with pytest.raises(BadInput, match=r"Cannot read the prompts from .*: File name too long\.$"):
        run(tiny_model, efface.erase(tiny_model, "cat"), colours("cat"), tmp_path / "out", data=tmp_path)
