"""What a protocol samples with where the user does not say: as published, where that applies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import efface
from efface.generation import Sampling
from efface.models import Model
from efface.protocols import PROTOCOLS, Protocol
from efface.protocols.base import PaperSampling
from efface.protocols.run import run_protocol

#: As the reference repositories have it; `None` where none says it for its numbers.
PUBLISHED = {
    "ablation": ("ddim", 50, 6.0, 1.0),
    "coco": None,
    "err": None,
    "imagenette": ("lms", 100, 7.5),
    "memorised": ("ddim", 50, 6.0),
    "style": ("lms", 100, 7.5),
    "unlearncanvas": ("ddim", 100, 9.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_setting_is_the_default(tiny_model: Model, tmp_path: Path, name: str) -> None:
    default, expected = Sampling.default(tiny_model), PUBLISHED[name]
    sampling = PROTOCOLS.get(name).sampling(tiny_model, tmp_path)
    settings = (sampling.sampler, sampling.steps, sampling.guidance, sampling.eta)
    assert settings == (*(expected or (default.sampler, default.steps, default.guidance)), 0.0)[:4]
    assert sampling.batch_size == default.batch_size


def published_with(sampling: PaperSampling) -> Protocol:
    return replace(PROTOCOLS.get("err"), published=sampling)


def test_a_data_sets_setting_is_for_that_data_set(tiny_model: Model, tmp_path: Path) -> None:
    entry = published_with(PaperSampling("ddim", 100, 9.0, with_data=True))
    assert entry.sampling(tiny_model) == Sampling()
    assert entry.sampling(tiny_model, tmp_path).steps == 100


def test_the_embedded_model_and_those_drawn_with_by_pipelines_keep_their_own(
    emoji: Model, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = published_with(PaperSampling("ddim", 100, 9.0))
    assert entry.sampling(emoji) == Sampling.default(emoji)
    monkeypatch.setattr(type(tiny_model), "call_parameters", {})
    assert entry.sampling(tiny_model).sampler == "own"


def test_a_guidance_that_no_paper_fixes_is_the_models(tiny_model: Model) -> None:
    assert published_with(PaperSampling("ddim", 30)).sampling(tiny_model) == Sampling("ddim", 30, 7.5)


def test_what_was_used_is_in_the_provenance(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    eraser, judge = efface.erase(tiny_model, "cat", to="dog"), colours("cat", "dog")
    protocol = replace(
        PROTOCOLS.get("imagenette"), published=PaperSampling("lms", 5, 6.0)
    )  # fewer steps than its paper
    for sampling, expected in ((None, ("lms", 5, 6.0)), (Sampling("ddim", 2, 3.0), ("ddim", 2, 3.0))):
        found = run_protocol(
            protocol,
            tiny_model,
            {"mine": eraser},
            judge,
            out=tmp_path / expected[0],
            n=1,
            sampling=sampling,
            options={"classes": "cat,dog"},
        )
        record = found.provenance["sampling"]
        assert (record["sampler"], record["steps"], record["guidance"]) == expected
