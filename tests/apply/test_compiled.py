"""A compiled denoiser: erasers come, change and go, and it is never compiled again, nor ever goes on without them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Eraser, TextEdit, open_model
from efface.models import Model

graphs: list[torch.fx.GraphModule] = []


def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """A backend that runs a graph as it is, and counts it."""
    graphs.append(graph)
    return graph.forward


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    graphs.clear()
    yield
    torch._dynamo.reset()


def outside(pipeline: Any, **options: Any) -> None:
    pipeline.unet = torch.compile(pipeline.unet, backend=counting, **options)


def in_place(pipeline: Any, **options: Any) -> None:
    pipeline.unet.compile(backend=counting, **options)


def its_forward(pipeline: Any, **options: Any) -> None:
    pipeline.unet.forward = torch.compile(pipeline.unet.forward, backend=counting, **options)


@pytest.fixture
def erasers(tiny_sd: Path) -> list[Eraser]:
    """Of ranks 1, 2, and 18."""
    model = open_model(tiny_sd)
    options: list[tuple[list[str], str]] = [(["cat"], "token"), (["cat", "horse"], "token"), (["cat", "car"], "window")]
    return [efface.erase(model, names, to="dog", variant=variant) for names, variant in options]


def denoise(pipeline: Any, text: Tensor) -> Tensor:
    latents = torch.randn(len(text), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipeline.unet(latents, torch.tensor(500), encoder_hidden_states=text).sample


def edited(eraser: Eraser, text: Tensor, strength: float = 1.0) -> Tensor:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return edit.scaled(strength)(text)


@pytest.mark.parametrize(("compile_", "fullgraph"), [(outside, True), (in_place, True), (its_forward, False)])
def test_attaching_swapping_and_detaching_compile_nothing(
    compile_: Callable[..., None], fullgraph: bool, tiny_model: Model, erasers: list[Eraser]
) -> None:
    pipeline, text = tiny_model.pipeline(), tiny_model.embed(["a cat", "a house", "horse"]).tokens
    plain = denoise(pipeline, text)
    expected = [denoise(pipeline, edited(eraser, text)) for eraser in erasers]
    half = denoise(pipeline, edited(erasers[0], text, 0.5))
    compile_(pipeline, fullgraph=fullgraph)
    assert torch.equal(denoise(pipeline, text), plain)
    assert len(graphs) == 1
    for eraser, wanted in zip(erasers, expected, strict=True):
        with eraser.attach(pipeline):
            torch.testing.assert_close(denoise(pipeline, text), wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(denoise(pipeline, text), plain)
    attachment = erasers[0].attach(pipeline, strength=0.5)
    torch.testing.assert_close(denoise(pipeline, text), half, rtol=1e-5, atol=1e-6)
    attachment.set(1.0)
    torch.testing.assert_close(denoise(pipeline, text), expected[0], rtol=1e-5, atol=1e-6)
    attachment.detach()
    with efface.attach_each([erasers[0], None, erasers[2]], pipeline):
        each = denoise(pipeline, text)
    for row, wanted in enumerate((expected[0], plain, expected[2])):
        torch.testing.assert_close(each[row], wanted[row], rtol=1e-5, atol=1e-6)
    assert torch.equal(denoise(pipeline, text), plain)
    assert len(graphs) == 1


@pytest.mark.parametrize("compile_", [outside, in_place])
def test_an_eraser_that_was_there_first_can_go_as_well(
    compile_: Callable[..., None], tiny_model: Model, erasers: list[Eraser]
) -> None:
    pipeline, text = tiny_model.pipeline(), tiny_model.embed(["a cat", "a house"]).tokens
    plain, expected = (denoise(pipeline, some) for some in (text, edited(erasers[0], text)))
    attachment = erasers[0].attach(pipeline)
    compile_(pipeline)
    torch.testing.assert_close(denoise(pipeline, text), expected, rtol=1e-5, atol=1e-6)
    attachment.set(0.0)
    assert torch.equal(denoise(pipeline, text), plain)
    attachment.detach()
    assert torch.equal(denoise(pipeline, text), plain)
    assert len(graphs) == 1


def test_blocks_compiled_one_by_one_are_not_compiled_again(tiny_model: Model, erasers: list[Eraser]) -> None:
    pipeline, text = tiny_model.pipeline(), tiny_model.embed(["a cat", "a house"]).tokens
    expected = denoise(pipeline, edited(erasers[1], text))
    pipeline.unet.compile_repeated_blocks(backend=counting)
    plain = denoise(pipeline, text)
    compiled = len(graphs)
    assert compiled
    with erasers[1].attach(pipeline):
        torch.testing.assert_close(denoise(pipeline, text), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(denoise(pipeline, text), plain)
    assert len(graphs) == compiled


def test_a_compiled_pipeline_draws_with_and_without_an_eraser(tiny_model: Model, erasers: list[Eraser]) -> None:
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> Tensor:
        options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
        return pipeline("a cat", generator=torch.Generator().manual_seed(0), **options).images

    plain = draw()
    with erasers[0].attach(pipeline):
        expected = draw()
    outside(pipeline)
    assert torch.allclose(draw(), plain, atol=1e-5)
    compiled = len(graphs)
    with erasers[0].attach(pipeline):
        assert torch.allclose(draw(), expected, atol=1e-5)
    assert torch.allclose(draw(), plain, atol=1e-5)
    assert len(graphs) == compiled


def test_a_compiled_model_is_the_same_model(tiny_sd: Path) -> None:
    """Its weights go by the same names, and are written and restored as before."""
    pipeline: Any = open_model(tiny_sd).pipeline()
    before = open_model(pipeline)
    reported = (before.hash, before.text_parameters(), before.width, before.dtype)
    eraser = efface.erase(before, "cat", to="dog", method="oce")
    text = before.embed(["a cat", "a house"]).tokens
    with eraser.attach(before):
        expected = denoise(pipeline, text)
    outside(pipeline)
    plain, compiled = denoise(pipeline, text), open_model(pipeline)
    assert (compiled.hash, compiled.text_parameters(), compiled.width, compiled.dtype) == reported
    with eraser.attach(pipeline):
        torch.testing.assert_close(denoise(pipeline, text), expected, rtol=1e-5, atol=1e-6)
    baked = eraser.bake(pipeline)
    torch.testing.assert_close(denoise(pipeline, text), expected, rtol=1e-5, atol=1e-6)
    baked.undo()
    assert torch.equal(denoise(pipeline, text), plain)
    assert len(graphs) == 1


@pytest.mark.parametrize("compile_", [outside, in_place, its_forward])
def test_a_guard_inside_a_compiled_denoiser_is_refused_rather_than_left_out(
    compile_: Callable[..., None], tiny_model: Model
) -> None:
    eraser, pipeline = efface.erase(tiny_model, "cat", method="adavd"), tiny_model.pipeline()
    compile_(pipeline)
    with pytest.raises(BadInput, match="compile"):
        eraser.attach(pipeline)
    for method in ("negative", "sld"):
        efface.erase(tiny_model, "cat", method=method).attach(pipeline).detach()
