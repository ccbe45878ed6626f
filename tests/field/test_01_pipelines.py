"""Item 1: every pipeline of images is erased from at the token of the subject, or rejected in one line."""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import torch

import efface
from efface import BadInput, open_model
from efface.models.text.embedded import Embedded
from efface.models.text.pipeline_text import text_of
from pipelines_of_diffusers import (
    GROUPS,
    LEFT_OUT,
    exported,
    fall_of_distance,
    of_control_union,
    of_cosmos,
    of_flux,
    of_flux2,
    of_kandinsky3,
    of_motion,
    of_sd,
    of_sd3,
    of_sdxl,
    rejected_by_index,
)
from tiny_transformers import Parts, of_sana, pipeline_of

# benchmarks/pipelines.py runs all classes. Here are all of the families, and one of every other group that is quick.
FAMILIES = [of_sd, of_sdxl, of_control_union, of_sd3, of_flux]
SLOW = [of_flux2, of_cosmos, of_sana, of_motion]
CASES = [
    pytest.param(builder, name, positions, id=name)
    for builder, (positions, names) in GROUPS.items()
    if builder not in SLOW
    for name in (names if builder in FAMILIES else names[:1])
]
REJECTED = {
    "StableDiffusionLatentUpscalePipeline": "encodes prompts differently",
    "SemanticStableDiffusionPipeline": "takes no prompt by a text encoder",
    "StableUnCLIPPipeline": "prior_tokenizer reads the prompt too",
    "MarigoldDepthPipeline": "takes no prompt by a text encoder",
    "VisualClozePipeline": "takes no prompt by a text encoder",
    "VisualClozeGenerationPipeline": "has no encode_prompt",
    "PRXPipeline": "ftfy",
    "PRXPixelPipeline": "ftfy",
    "QwenImageEditPipeline": "further inputs",
    "QwenImageEditInpaintPipeline": "further inputs",
    "QwenImageEditPlusPipeline": "further inputs",
    "ZImageOmniPipeline": "returns no sequence of tokens",
}


@cache
def parts_of(builder: Callable[[Path], Parts], tiny_sd: Path) -> Parts:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return builder(tiny_sd)


@pytest.mark.parametrize(("builder", "name", "positions"), CASES)
def test_a_pipeline_is_erased_from_or_rejected(
    tiny_sd: Path, builder: Callable[[Path], Parts], name: str, positions: tuple[int, int]
) -> None:
    ended = fall_of_distance(pipeline_of(name, parts_of(builder, tiny_sd)), positions)
    if name in REJECTED:
        assert isinstance(ended, str)
        assert REJECTED[name] in ended
    else:
        assert isinstance(ended, float), ended
        assert ended > 10


def test_every_exported_class_is_accounted_for(tmp_path: Path) -> None:
    listed = {name for _, names in GROUPS.values() for name in names}
    left_out = {name for names in LEFT_OUT.values() for name in names}
    assert not listed & left_out
    others = set(exported()) - listed - left_out
    assert [name for name in sorted(others) if rejected_by_index(name, tmp_path) is None] == []


@pytest.mark.parametrize(
    ("builder", "name", "family"),
    [
        (of_sd, "StableDiffusionPAGPipeline", "sd"),
        (of_sdxl, "StableDiffusionXLPAGPipeline", "sdxl"),
        (of_flux, "FluxKontextPipeline", "flux"),
    ],
)
def test_siblings_open_as_their_family(
    tiny_sd: Path, tmp_path: Path, builder: Callable[[Path], Parts], name: str, family: str
) -> None:
    pipeline = pipeline_of(name, parts_of(builder, tiny_sd))
    assert open_model(pipeline).family == family
    pipeline.save_pretrained(tmp_path)
    saved = open_model(tmp_path)
    assert saved.family == family
    assert torch.equal(saved.embed(["cat"]).tokens, open_model(pipeline).embed(["cat"]).tokens)


def test_a_pooled_embedding_as_wide_as_the_text_is_long_is_no_mask() -> None:
    tokens, pooled = torch.randn(2, 6, 4), torch.randn(2, 6)
    assert text_of((tokens, pooled))[1] is None
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    found = text_of((tokens, pooled, mask))[1]
    assert found is not None
    assert torch.equal(found, mask.bool())


def changed(pipeline: Any, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """The pipeline with another `encode_prompt`, as a program that subclasses it may have."""

    kind = type(pipeline)

    @wraps(kind.encode_prompt)
    def encode_prompt(self: Any, prompt: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return change(kind.encode_prompt(self, prompt, *args, **kwargs))

    pipeline.__class__ = type("Changed", (kind,), {"encode_prompt": encode_prompt})
    return pipeline


@pytest.mark.parametrize("builder", [of_kandinsky3, of_sd], ids=["generic", "family"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.flip(1),
        lambda text: text.mean(dim=1, keepdim=True).expand_as(text),
        lambda text: text.cumsum(dim=1),
    ],
    ids=["reversed", "averaged", "summed"],
)
def test_a_pipeline_that_mixes_its_tokens_is_rejected(
    tiny_sd: Path, builder: Callable[[Path], Parts], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    (_, (name, *_)) = GROUPS[builder]
    pipeline = changed(pipeline_of(name, parts_of(builder, tiny_sd)), lambda output: (change(output[0]), *output[1:]))
    with pytest.raises(BadInput, match=r"token for token|encodes prompts differently"):
        open_model(pipeline).embed(["cat"])


def test_tokens_that_a_pipeline_shifts_are_followed(tiny_sd: Path) -> None:
    pipeline = pipeline_of("Kandinsky3Pipeline", parts_of(of_kandinsky3, tiny_sd))
    shifted = changed(pipeline, lambda output: (output[0].roll(1, dims=1), *output[1:]))
    assert open_model(shifted).embed(["cat", "a dog"]).last.tolist() == [1, 2]


def test_a_pipeline_without_its_text_encoder_says_so(tiny_sd: Path) -> None:
    parts = parts_of(of_sdxl, tiny_sd) | {"text_encoder": None, "tokenizer": None}
    with pytest.raises(BadInput, match="has no text_encoder"):
        efface.erase(pipeline_of("StableDiffusionXLImg2ImgPipeline", parts), "cat", to="dog")


def test_what_is_no_pipeline_is_rejected() -> None:
    wrong: Any = 3
    with pytest.raises(BadInput, match="int is neither"):
        open_model(wrong)


@pytest.mark.parametrize("place", [-1, 6])
def test_a_subject_outside_the_text_is_rejected(place: int) -> None:
    with pytest.raises(BadInput, match="no subject token for 'cat'"):
        Embedded(torch.zeros(2, 6, 4), torch.tensor([1, place]), ("dog", "cat"))
