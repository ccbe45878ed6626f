"""What a protocol samples with where the user does not say: as published, where that applies."""

from pathlib import Path
from typing import Any

import pytest

import efface
from efface.generation import Sampling
from efface.models import Model
from efface.protocols import PROTOCOLS, Inputs
from efface.protocols.paper_sampling import Published, sampling_of

#: As the reference repositories have it; `None` where none says it for its numbers.
SAID = {
    "ablation": ("ddim", 50, 6.0),
    "coco": None,
    "err": None,
    "imagenette": ("lms", 100, 7.5),
    "memorised": ("ddim", 50, 6.0),
    "style": ("lms", 100, 7.5),
    "unlearncanvas": ("ddim", 100, 9.0),
}


@pytest.mark.parametrize("name", SAID)
def test_the_published_setting_is_the_default(tiny_model: Model, tmp_path: Path, name: str) -> None:
    published, said = PROTOCOLS.get(name).published, SAID[name]
    found = sampling_of(published, tiny_model, Inputs(data=tmp_path))
    own = Sampling.default(tiny_model)
    assert (found.sampler, found.steps, found.guidance) == (said or (own.sampler, own.steps, own.guidance))
    assert found.batch_size == own.batch_size


def test_a_data_sets_setting_is_for_that_data_set(tiny_model: Model, tmp_path: Path) -> None:
    published = Published("ddim", 100, 9.0, with_data=True)
    assert sampling_of(published, tiny_model) == sampling_of(published, tiny_model, Inputs()) == Sampling()
    assert sampling_of(published, tiny_model, Inputs(data=tmp_path)).steps == 100


def test_the_embedded_model_and_those_drawn_with_by_pipelines_keep_their_own(
    emoji: Model, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Published("ddim", 100, 9.0)
    assert sampling_of(published, emoji) == Sampling.default(emoji)
    monkeypatch.setattr(type(tiny_model), "called", {})
    assert sampling_of(published, tiny_model).sampler == "own"


def test_a_guidance_that_no_paper_fixes_is_the_models(tiny_model: Model) -> None:
    assert sampling_of(Published("ddim", 30), tiny_model) == Sampling("ddim", 30, 7.5)


def test_what_was_used_is_in_the_provenance(tiny_model: Model, colours: Any, tmp_path: Path) -> None:
    eraser, judge = efface.erase(tiny_model, "cat", to="dog"), colours("cat", "dog")
    for sampling, said in ((None, ("lms", 100, 7.5)), (Sampling("ddim", 2, 3.0), ("ddim", 2, 3.0))):
        found = PROTOCOLS.get("imagenette").evaluate(
            tiny_model,
            {"mine": eraser},
            judge,
            out=tmp_path / said[0],
            n=1,
            sampling=sampling,
            inputs=Inputs(options={"classes": "cat,dog"}),
        )
        how = found.provenance["sampling"]
        assert (how["sampler"], how["steps"], how["guidance"]) == said
