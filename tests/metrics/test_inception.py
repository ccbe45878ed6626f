"""FID's Inception: the published layout, and the features that torch-fidelity 0.4.0 gives for known weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from efface.errors import BadInput
from efface.metrics.extractors.inception import Inception, resize_as_tensorflow
from efface.metrics.features import open_extractor


def known_weights() -> dict[str, Tensor]:
    """Waves of a scale at which activations neither die nor explode."""
    state = Inception().state_dict()
    for k, name in enumerate(sorted(state)):
        shape = state[name].shape
        wave = torch.sin((k + 1) * 0.1 + torch.arange(state[name].numel(), dtype=torch.float64) * 1.7).reshape(shape)
        if len(shape) > 1:
            state[name] = (wave * math.sqrt(4 / shape[1:].numel())).float()
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = (1 + 0.1 * wave).float()
        elif len(shape) == 1:
            state[name] = (0.1 * wave).float()
    return state


def picture() -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    return np.stack([(3 * x + y) % 256, (x * y) % 256, (5 * y) % 256], -1).astype(np.uint8)


def test_the_layout_is_the_published_one() -> None:
    state = Inception().state_dict()
    # Torchvision's Inception v3 without its auxiliary head has 23,834,568 parameters, 2,049,000 of them in `fc`.
    assert sum(p.numel() for p in Inception().parameters()) == 23_834_568 - 2_049_000
    assert len([name for name in state if name.endswith("conv.weight")]) == 94
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_5b.branch_pool.conv.weight"].shape == (32, 192, 1, 1)
    assert state["Mixed_6b.branch7x7dbl_5.conv.weight"].shape == (192, 128, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)


@pytest.mark.slow
def test_features_are_torch_fidelitys(tmp_path: Path) -> None:
    """The means of the last block's four branches."""
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(known_weights() | classifier, tmp_path / "weights.pth")
    extractor = open_extractor(f"inception:{tmp_path / 'weights.pth'}")
    assert extractor.version.startswith("inception-2015-12-05 ")
    features = extractor.features([picture()])
    assert features.shape == (1, 2048)
    branches = np.split(features[0], [320, 1088, 1856])
    assert [b.mean() for b in branches] == pytest.approx([0.0121800, 0.0053145, 0.0060301, 0.0135089], abs=2e-7)


def test_resizing_begins_at_the_corner_of_a_pixel() -> None:
    """Output pixel i lies at i * size / 299, as in TensorFlow 1, not at pixel centres."""
    image = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None], 25, 0).repeat(3, 2)
    row = resize_as_tensorflow(image)[0, 0] * 128 + 128
    expected = [min(i * 25 / 299, 24) * 10 for i in range(299)]
    assert row.numpy() == pytest.approx(expected, abs=1e-3)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs FID's weights"):
        open_extractor("inception")
    with pytest.raises(BadInput, match="There is no file"):
        open_extractor(f"inception:{tmp_path / 'none.pth'}")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"'Conv2d_1a_3x3.*missing"):
        open_extractor(f"inception:{tmp_path / 'other.pth'}")
