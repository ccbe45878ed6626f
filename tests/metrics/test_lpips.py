"""LPIPS against a literal float64 implementation, with random weights under the published names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadInput
from efface.metrics.lpips import WIDTHS, Lpips, lpips, shorter_side

LAYERS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    trunk: dict[str, Tensor] = {}
    for i, (outputs, inputs, kernel) in LAYERS.items():
        shape = (outputs, inputs, kernel, kernel)
        trunk[f"features.{i}.weight"] = torch.randn(shape, generator=rng) / (inputs * kernel**2) ** 0.5
        trunk[f"features.{i}.bias"] = torch.randn(outputs, generator=rng) / 10
    heads = {f"lin{i}.model.1.weight": torch.rand((1, w, 1, 1), generator=rng) for i, w in enumerate(WIDTHS)}
    return trunk | heads


@pytest.fixture(scope="module")
def files(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A trunk as torchvision saves it, with its classifier, and the heads."""
    folder = tmp_path_factory.mktemp("lpips")
    trunk = {name: w for name, w in state.items() if name.startswith("features")}
    torch.save(trunk | {"classifier.6.bias": torch.zeros(1000)}, folder / "alexnet.pth")
    torch.save({name: w for name, w in state.items() if name.startswith("lin")}, folder / "alex.pth")
    return [folder / "alexnet.pth", folder / "alex.pth"]


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 3, 70, 80, 3), dtype=np.uint8)
    return first, second


def literally(state: dict[str, Tensor], first: np.ndarray, second: np.ndarray) -> float:
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)

    def activations(image: np.ndarray) -> list[Tensor]:
        x = (torch.tensor(image, dtype=torch.float64) / 255 * 2 - 1 - shift) / scale
        x = x.permute(2, 0, 1)[None]
        taken: list[Tensor] = []
        for i in LAYERS:
            x = F.max_pool2d(x, 3, 2) if i in (3, 6) else x
            weight, bias = state[f"features.{i}.weight"].double(), state[f"features.{i}.bias"].double()
            stride, padding = (4, 2) if i == 0 else (1, weight.shape[-1] // 2)
            x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
            taken.append(x[0])
        return taken

    total = 0.0
    for i, (f, g) in enumerate(zip(activations(first), activations(second), strict=True)):
        f, g = (t / (t.norm(dim=0, keepdim=True) + 1e-10) for t in (f, g))
        a = state[f"lin{i}.model.1.weight"].double().view(-1, 1, 1)
        total += float((a * (f - g) ** 2).sum(0).mean())
    return total


def test_agrees_with_the_formula(
    state: dict[str, Tensor], files: list[Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    first, second = pair
    expected = [literally(state, x, y) for x, y in zip(first, second, strict=True)]
    assert Lpips(*files).distances(first, second) == pytest.approx(expected, abs=1e-6)
    value = lpips(Lpips(*files), first, second)
    assert value.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert value.low <= value.value <= value.high


def test_of_an_image_with_itself_is_zero(files: list[Path], pair: tuple[np.ndarray, np.ndarray]) -> None:
    net = Lpips(*files)
    assert (net.distances(pair[0], pair[0]) == 0).all()
    assert net.distances(*pair) == pytest.approx(net.distances(pair[1], pair[0]))


def test_resizes_the_shorter_side(
    state: dict[str, Tensor], files: list[Path], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    first, second = (np.asarray(Image.fromarray(images[0]).resize((73, 64), 2)) for images in pair)
    small = Lpips(*files, side=64)
    assert small.distances(pair[0][:1], pair[1][:1]) == pytest.approx([literally(state, first, second)], abs=1e-6)
    assert shorter_side(Image.new("RGB", (100, 150)), 64).size == (64, 96)
    assert small.version != Lpips(*files).version


def test_one_file_of_all_weights(state: dict[str, Tensor], files: list[Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, tmp_path / "all.safetensors")
    assert Lpips(tmp_path / "all.safetensors").version == Lpips(*files).version


def test_bad_input(files: list[Path], pair: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'lin0\.model\.1\.weight' is missing from .*alexnet\.pth"):
        Lpips(files[0])
    with pytest.raises(BadInput, match="missing from no file"):
        Lpips()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(BadInput, match="damaged"):
        Lpips(tmp_path / "text.pth")
    torch.save({"features.0.weight": [1]}, tmp_path / "list.pth")
    with pytest.raises(BadInput, match="has no tensors"):
        Lpips(tmp_path / "list.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(BadInput, match="has shape"):
        Lpips(tmp_path / "vgg.pth")
    net = Lpips(*files)
    with pytest.raises(BadInput, match="one size"):
        net.distances(pair[0], pair[1][:, :40])
    with pytest.raises(BadInput, match="as many first as second images"):
        net.distances(pair[0], pair[1][:2])
    with pytest.raises(BadInput, match="as many first as second images"):
        net.distances(pair[0], [])
