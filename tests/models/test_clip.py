"""CLIP as the judge and the metrics share it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from efface.errors import BadInput
from efface.models.clip import open_clip


def test_images_of_any_size_one_by_one_or_together(tiny_clip: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [(20, 24), (40, 33), (32, 32)]]
    clip = open_clip(str(tiny_clip))
    together = clip.image_features(images)
    assert (together.shape, together.dtype) == ((3, 16), torch.float64)
    alone = torch.cat([clip.image_features([image]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_cosines_are_of_unit_features(tiny_clip: Path) -> None:
    clip = open_clip(str(tiny_clip))
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    f, g = clip.image_features(images), clip.text_features(["a cat", "a very long text " * 20])
    expected = [[(a @ b / a.norm() / b.norm()).item() for b in g] for a in f]
    np.testing.assert_allclose(clip.cosines(images, ["a cat", "a very long text " * 20]), expected, atol=1e-7)


def test_the_version_names_the_weights(tiny_clip: Path) -> None:
    one, again = open_clip(str(tiny_clip)), open_clip(str(tiny_clip))
    assert one.version == again.version
    assert one.version.startswith("clip:clip ")
    again._model.logit_scale.data.add_(1)
    del again.version
    assert again.version != one.version


def test_the_embedded_one_reads_with_the_diffusion_models_text_encoder() -> None:
    clip = open_clip()
    assert clip.name == "emoji"
    cosines = clip.cosines(np.zeros((1, 64, 64, 3), np.uint8), ["a cat"])
    assert torch.isfinite(cosines).all()


def test_not_a_clip(tiny_sd: Path) -> None:
    with pytest.raises(BadInput, match="Cannot open a CLIP model"):
        open_clip(str(tiny_sd))
