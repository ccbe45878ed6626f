"""Whether a model fits is found out once, and again as soon as anything that embeds its text has changed."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import efface
from efface import Eraser, WrongBase, open_model
from efface.eraser import base_check as probed
from efface.models import Model


@pytest.fixture
def eraser(tiny_sd: Path) -> Eraser:
    """Of a model that was opened apart: one that certifies its eraser has checked it already."""
    return efface.erase(open_model(tiny_sd), ["cat", "golf ball"], to="dog")


@pytest.fixture
def passes(tiny_model: Model) -> Iterator[list[int]]:
    """Grows with each pass of the text encoder."""
    seen: list[int] = []
    handle = tiny_model.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def test_a_pipeline_is_checked_once_for_each_eraser(
    eraser: Eraser, tiny_sd: Path, tiny_model: Model, passes: list[int]
) -> None:
    pipeline, other = tiny_model.pipeline(), efface.erase(open_model(tiny_sd), "house", to="dog")
    passes.clear()
    eraser.attach(pipeline).detach()
    assert len(passes) == 1
    eraser.attach(pipeline, strength=0.5).detach()
    eraser.bake(tiny_model).undo()
    replace(eraser).attach(pipeline).detach()  # as one that was read from its file again
    assert len(passes) == 1
    other.attach(pipeline).detach()
    assert len(passes) == 2
    skipping = replace(eraser, request=eraser.request.model_copy(update={"clip_skip": 1}))
    with pytest.raises(WrongBase):
        skipping.attach(pipeline)
    assert len(passes) == 3


def test_a_refusal_is_caches_too(eraser: Eraser, other_sd: Path) -> None:
    other = open_model(other_sd)
    seen: list[int] = []
    other.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    for _ in range(2):
        with pytest.raises(WrongBase, match="--force"):
            eraser.attach(other)
    assert len(seen) == 1


def in_place(weight: nn.Parameter, module: Any) -> None:
    with torch.no_grad():
        weight.mul_(-1)


def through_data(weight: nn.Parameter, module: Any) -> None:
    weight.data *= -1  # no version is counted


def by_another(weight: nn.Parameter, module: Any) -> None:
    module.weight = nn.Parameter(-weight.detach())


def by_other_data(weight: nn.Parameter, module: Any) -> None:
    weight.data = -weight.data


@pytest.mark.parametrize("change", [in_place, through_data, by_another, by_other_data])
def test_a_changed_weight_is_noticed(
    eraser: Eraser, tiny_model: Model, change: Callable[[nn.Parameter, Any], None]
) -> None:
    eraser.attach(tiny_model).detach()
    encoder: Any = tiny_model.text_encoder
    module = encoder.get_input_embeddings()
    change(module.weight, module)
    with pytest.raises(WrongBase):
        eraser.attach(tiny_model)
    change(module.weight, module)
    eraser.attach(tiny_model).detach()


def test_nothing_is_caches_of_what_is_gone(eraser: Eraser, tiny_sd: Path) -> None:
    gc.collect()
    before = len(probed._caches)
    model = open_model(tiny_sd)
    eraser.attach(model).detach()
    assert len(probed._caches) == before + 1
    del model
    gc.collect()
    assert len(probed._caches) == before


def test_weights_made_in_inference_mode_are_checked_as_well(eraser: Eraser, tiny_sd: Path) -> None:
    with torch.inference_mode():
        model = open_model(tiny_sd)
        eraser.attach(model).detach()
        eraser.attach(model).detach()
        encoder: Any = model.text_encoder
        encoder.get_input_embeddings().weight.mul_(-1)
        with pytest.raises(WrongBase):
            eraser.attach(model)


def test_a_lora_on_the_text_encoder_is_looked_at_every_time(
    eraser: Eraser, tiny_model: Model, passes: list[int]
) -> None:
    """Its scale is a number in Python: no weight tells of it."""
    import peft

    encoder: Any = tiny_model.text_encoder
    eraser.attach(tiny_model).detach()
    encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    with pytest.raises(WrongBase):
        eraser.attach(tiny_model)
    encoder.disable_adapters()
    passes.clear()
    eraser.attach(tiny_model).detach()
    eraser.attach(tiny_model).detach()
    assert len(passes) == 2
    encoder.enable_adapters()
    with pytest.raises(WrongBase):
        eraser.attach(tiny_model)
