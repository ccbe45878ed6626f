"""The network that a judge is trained from: a small one at random, or a classifier of transformers with a new head."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from efface.errors import BadInput
from efface.judges.imagenet import Classifier
from efface.models.pretrained import image_processor, open_part
from efface.settings import Settings


class TrainSettings(Settings):
    """How a judge is trained.

    Attributes:
        network: What starts at random.
        start: A classifier of transformers to fine-tune instead, a folder or hub id.
        head_only: Whether only the last layer learns, as in SepCE.
        size: Pixels a side that a new network sees.
        epochs: Passes over the pictures.
        batch_size: Pictures a step.
        lr: The highest learning rate.
        weight_decay: AdamW's.
        held_out: The share of each class that is tested on and not learned from; 0.3 is SepCE's.
        flip: Whether pictures are learned from mirrored, too.
    """

    network: Literal["resnet", "vit"] = "resnet"
    start: str = ""
    head_only: bool = False
    size: int = Field(default=64, ge=32, multiple_of=8)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    held_out: float = Field(default=0.3, gt=0, lt=1)
    flip: bool = True


def network(settings: TrainSettings, classes: tuple[str, ...], device: str) -> Classifier:
    """A classifier of these classes, with its image processor.

    Raises:
        BadInput: The classifier to start from cannot be opened, or there is none of which to learn the head alone.
    """
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    if settings.start:
        return _fine_tuned(settings.start, names, device)
    if settings.head_only:
        raise BadInput("head_only needs a network that has learned something: name one with start.")
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = _small_resnet(names) if settings.network == "resnet" else _small_vit(settings.size, names)
    processor = ViTImageProcessorPil(size={"height": settings.size, "width": settings.size})
    return Classifier(model.to(device), processor, device)


def head_of(model: nn.Module) -> nn.Module:
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _small_resnet(names: dict[str, Any]) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic", **names
    )
    return ResNetForImageClassification(config)


def _small_vit(side: int, names: dict[str, Any]) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    layers = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(**layers, image_size=side, patch_size=8, **names))


def _fine_tuned(start: str, names: dict[str, Any], device: str) -> Classifier:
    from transformers import AutoModelForImageClassification

    model, found = open_part(
        AutoModelForImageClassification,
        start,
        "an image classifier",
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **names,
    )
    head = next(name for name, module in model.named_modules() if module is head_of(model))
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(f"{head}.")):
        raise BadInput(f"Cannot start from '{start}': it lacks {missing[0]} and {len(missing) - 1} more weights.")
    return Classifier(model.to(device), image_processor(start), device)
