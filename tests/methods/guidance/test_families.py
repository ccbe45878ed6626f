"""Guards on families that read a pooled embedding beside the tokens, or an attention mask."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Model, open_model
from efface.edits.kinds import GuardEdit

Tiny = Callable[..., Any]
CONCEPTS = ["cat", "golf ball"]
# What a denoiser takes beside the tokens, and where `encode_prompt` gives it.
BESIDE = {"sdxl": ("text_embeds", 2), "sd3": ("pooled_projections", 2), "pixart": ("encoder_attention_mask", 1)}


def draw(pipeline: Any, **more: Any) -> Tensor:
    """Latents of two guided steps; SDXL leads away from zeros where there is no negative prompt."""
    generator, size = torch.Generator().manual_seed(0), {"height": 16, "width": 16, "guidance_scale": 5.0}
    if type(pipeline).__name__ == "PixArtSigmaPipeline":
        size["use_resolution_binning"] = False
    return pipeline(
        "a cat", num_inference_steps=2, output_type="latent", generator=generator, **size, **more
    ).images  # fmt: skip


def without_pooled(eraser: efface.Eraser) -> efface.Eraser:
    (part,) = eraser.edits
    assert isinstance(part, GuardEdit)
    values = {name: tensor for name, tensor in part.values.items() if name != "pooled"}
    return replace(eraser, edits=(replace(part, values=values),))


# PixArt has an attention mask for each prompt: here the concept's has other tokens than the empty one's.
@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart"])
@pytest.mark.filterwarnings("error:.*reads the text")
def test_the_negative_eraser_is_the_pipelines_negative_prompt(tiny: Tiny, family: str) -> None:
    pipeline = tiny(family)
    plain, expected = draw(pipeline), draw(pipeline, negative_prompt="cat, golf ball")
    eraser = efface.erase(pipeline, CONCEPTS, method="negative")
    with eraser.attach(pipeline):
        torch.testing.assert_close(draw(pipeline), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(draw(pipeline, negative_prompt=""), expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(efface.BadInput, match="has one already"):
            draw(pipeline, negative_prompt="a red car")
    assert torch.equal(draw(pipeline), plain)
    with eraser.attach(pipeline, strength=0.5):
        assert not torch.allclose(draw(pipeline), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart"])
@pytest.mark.filterwarnings("error:.*reads the text")
def test_the_third_branch_of_sld_is_the_concepts_own(tiny: Tiny, family: str) -> None:
    """The denoiser is handed tokens, and mask or pooled embedding, as the pipeline makes them of the concept."""
    pipeline = tiny(family)
    model, heard = open_model(pipeline), list[dict[str, Any]]()
    plain = draw(pipeline)
    eraser = efface.erase(pipeline, CONCEPTS, method="sld", preset="max")
    with eraser.attach(pipeline):
        listener = model.denoiser.register_forward_pre_hook(lambda _, __, given: heard.append(given), with_kwargs=True)
        steered = draw(pipeline)
        listener.remove()
    reported = pipeline.encode_prompt("cat, golf ball", *([None, None] if family == "sd3" else []))
    given = heard[0] | (heard[0].get("added_cond_kwargs") or {})
    beside, place = BESIDE[family]
    for found, expected in ((given["encoder_hidden_states"], reported[0]), (given[beside], reported[place])):
        assert len(found) == 3
        torch.testing.assert_close(found[2:], expected, rtol=1e-5, atol=1e-6)
    assert bool(steered.isfinite().all())
    assert not torch.allclose(steered, plain, rtol=1e-3, atol=1e-3)
    assert torch.equal(draw(pipeline), plain)


def test_a_guard_that_leaves_the_pooled_embedding_alone_says_so(tiny: Tiny, tiny_model: Model) -> None:
    for family, way in (("sdxl", "pooled text embedding"), ("sd3", "pooled_projections")):
        eraser = without_pooled(efface.erase(tiny(family), "cat", method="negative"))
        with pytest.warns(UserWarning, match=way):
            eraser.attach(tiny(family)).detach()
    with pytest.warns(UserWarning, match="pooled text embedding"):
        efface.erase(tiny("sdxl"), "cat", method="adavd").attach(tiny("sdxl")).detach()
    assert tiny_model.pooled(["cat"]) is None
