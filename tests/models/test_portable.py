"""Erasers of every family in the formats of other tools, each proven by what loads them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

import efface
from efface import BadInput, Eraser, Model, WeightEdit, open_model
from efface.edits import describe

Tiny = Callable[..., Any]
Saved = Callable[[str], Path]
TO_Q = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"

pytestmark = pytest.mark.filterwarnings("ignore:.*which the eraser does not edit")


def draw(pipeline: Any) -> Tensor:
    """Latents of one step."""
    generator, size = torch.Generator().manual_seed(0), {"height": 16, "width": 16}
    return pipeline("a cat", num_inference_steps=1, output_type="latent", generator=generator, **size).images


def fresh(folder: Path) -> Any:
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check(found: Tensor, expected: Tensor, plain: Tensor) -> None:
    """As near as rounding lets it be: far nearer than the change is large."""
    assert (expected - plain).abs().max() > 0
    assert (found - expected).abs().max() < 1e-2 * (expected - plain).abs().max()


def weights_of_sdxl(model: Model) -> Eraser:
    """Changes of one map in the U-Net and in both text encoders."""
    names = [next(name for name, _ in model.weights(part) if name.endswith("layers.0.mlp.fc2.weight"))
             for part in ("text_encoder", "text_encoder_2")]  # fmt: skip
    full = [TO_Q, f"text_encoder.{names[0]}", f"text_encoder_2.{names[1]}"]
    edits: list[WeightEdit] = []
    for seed, name in enumerate(full):
        part, _, parameter = name.partition(".")
        rows, columns = dict(model.weights(part, [parameter]))[parameter].shape
        generator = torch.Generator().manual_seed(seed)
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        edits.append(WeightEdit(name, up=up, down=down))
    return replace(efface.erase(model, "cat", "dog"), edits=tuple(edits))


@pytest.mark.parametrize("format", ["lora", "kohya"])
def test_weights_of_both_text_encoders_go_out_and_come_back(
    tiny: Tiny, saved: Saved, tmp_path: Path, format: str
) -> None:
    pipeline, path = tiny("sdxl"), tmp_path / "x.safetensors"
    model = open_model(pipeline)
    eraser, plain = weights_of_sdxl(model), draw(pipeline)
    efface.export_eraser(eraser, open_model(saved("sdxl")), path, format)
    if format == "kohya":
        stems = {name.split("_text_model_")[0] for name in load_file(path) if name.startswith("lora_te")}
        assert stems == {"lora_te1", "lora_te2"}
    with eraser.attach(pipeline):
        expected, text = draw(pipeline), model.embed(["a cat"]).tokens
    assert torch.equal(draw(pipeline), plain)
    baked = eraser.bake(pipeline)
    assert torch.equal(draw(pipeline), expected)
    baked.undo()

    loaded = fresh(saved("sdxl"))
    loaded.load_lora_weights(path)
    check(draw(loaded), expected, plain)
    check(open_model(loaded).embed(["a cat"]).tokens, text, model.embed(["a cat"]).tokens)
    back = efface.import_eraser(path, saved("sdxl"), "cat")
    assert {str(edit) for edit in map(describe, back.edits)} == {str(edit) for edit in map(describe, eraser.edits)}
    with back.attach(pipeline):
        check(draw(pipeline), expected, plain)


def test_a_part_that_a_model_lacks_is_told(tiny: Tiny, tiny_model: Model) -> None:
    assert open_model(tiny("sd3")).encoder_parts == ("text_encoder", "text_encoder_2", "text_encoder_3")
    assert tiny_model.encoder_parts == ("text_encoder",)
    with pytest.raises(BadInput, match="no part 'text_encoder_2'"):
        list(tiny_model.weights("text_encoder_2"))
