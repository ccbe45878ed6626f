"""A model's hash is of what it draws with: of its weights, and of the erasers on it."""

from pathlib import Path

import numpy as np
import pytest

import efface
from efface import open_model
from efface.generation import Job, Sampling, generate_images
from efface.models import Model


@pytest.mark.parametrize("method", ["uce", "oce"])
def test_attached_and_baked_erasers_are_in_the_hash_until_they_are_off(tiny_model: Model, method: str) -> None:
    eraser, other = (efface.erase(tiny_model, name, to="dog", method=method) for name in ("cat", "house"))
    plain = tiny_model.hash
    seen = {plain}
    with eraser.attach(tiny_model.pipeline()) as attachment:
        seen.add(tiny_model.hash)
        attachment.set(0.5)
        seen.add(tiny_model.hash)
        with other.attach(tiny_model, force=True):
            seen.add(tiny_model.hash)
        attachment.set(0.0)
        assert tiny_model.hash == plain
    assert tiny_model.hash == plain
    baked = eraser.bake(tiny_model)
    seen.add(tiny_model.hash)
    again = other.bake(tiny_model.pipeline(), force=True)
    seen.add(tiny_model.hash)
    again.undo()
    baked.undo()
    baked.undo()
    assert tiny_model.hash == plain
    assert len(seen) == 6
    with eraser.attach(tiny_model):
        first = tiny_model.hash
    with eraser.attach(tiny_model):
        assert tiny_model.hash == first


def test_a_bake_that_fails_leaves_no_trace(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", to="dog", method="adavd")
    plain = tiny_model.hash
    with pytest.raises(efface.BadInput):
        eraser.bake(tiny_model)
    tiny_model.pipeline().fuse_qkv_projections()
    with pytest.raises(efface.BadInput):
        eraser.attach(tiny_model)
    assert tiny_model.hash == plain


def test_an_edited_models_images_are_never_taken_for_the_bases(tiny_model: Model, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, "cat", to="house", lamb=0.001)
    jobs, sampling = [Job("a red cat", 1)], Sampling("ddim", 3, 4.0)

    def draw(folder: str) -> np.ndarray:
        (image,) = generate_images(tiny_model, jobs, sampling, out=tmp_path / folder, use_cache=True)
        return image.pixels()

    baked = eraser.bake(tiny_model)
    written = draw("baked")
    baked.undo()
    with eraser.attach(tiny_model):
        attached = draw("attached")
    plain = draw("plain")
    assert not np.array_equal(plain, written)
    assert not np.array_equal(plain, attached)
    eraser.bake(tiny_model)
    assert np.array_equal(draw("baked again"), written)


def test_a_hash_loads_no_denoiser(tiny_sd: Path) -> None:
    model = open_model(tiny_sd)
    reported = model.hash
    assert not model._denoiser_loaded  # pyright: ignore[reportAttributeAccessIssue]
    _ = model.denoiser
    assert model.hash == reported
