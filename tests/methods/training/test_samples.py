"""Sample images during a training: their files, the tracker, and that they change nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface import BadInput, Model, RunContext

SMALL: dict[str, Any] = {
    "method": "lora", "iterations": 4, "max_denoising_steps": 3, "reuse": 2, "lr": 1e-1, "rank": 2,
}  # fmt: skip
SAMPLES: dict[str, Any] = {"validation_steps": 2, "validation_prompt": "a photo of a {}", "num_validation_images": 2}


def test_images_of_every_nth_step_are_those_of_its_eraser(tiny_model: Model, tmp_path: Path) -> None:
    plain = efface.erase(tiny_model, ["cat", "golf ball"], **SMALL)
    context = RunContext(tmp_path)
    eraser = efface.erase(tiny_model, ["cat", "golf ball"], context=context, save_freq=2, **SMALL, **SAMPLES)
    assert eraser.hash == plain.hash
    assert sorted(path.relative_to(tmp_path / "samples").as_posix() for path in tmp_path.rglob("*.png")) == [
        f"component-{index}-step-{step}-{name}/{image}.png"
        for index, name in enumerate(["cat", "golf-ball"]) for step in (2, 4) for image in (0, 1)
    ]  # fmt: skip
    first, last = (tmp_path / "samples" / f"component-0-step-{step}-cat" / "1.png" for step in (2, 4))
    expected = efface.generate("a photo of a cat", model=tiny_model, eraser=plain.only("cat"), n=2).images
    assert np.array_equal(np.asarray(Image.open(last)), np.asarray(expected[1]))
    assert first.read_bytes() != last.read_bytes()


def test_images_are_in_the_tracker(tiny_model: Model, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    efface.erase(tiny_model, "cat", context=RunContext(tmp_path), report_to="tensorboard", **SMALL, **SAMPLES)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out*") if path.parent.name == "efface"}
    events = reader.EventAccumulator(str(folder)).Reload()
    assert {event.step for event in events.Images("cat/samples")} == {2, 4}


def test_without_a_folder_they_are_rejected(tiny_model: Model) -> None:
    with pytest.raises(BadInput, match="validation_steps needs a folder"):
        efface.erase(tiny_model, "cat", **SMALL, validation_steps=2)
