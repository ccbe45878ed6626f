"""The network of a trained judge: a small new one, or a classifier of transformers with a new last layer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from efface.errors import BadInput
from efface.judges.shared.classifier import TransformersClassifier
from efface.models.pretrained import image_processor, open_part
from efface.settings import Settings


class TrainSettings(Settings):
    """Settings of the training of a judge.

    Attributes:
        network: The kind of a new network, with random weights.
        start: A classifier of transformers to fine-tune instead: a folder or hub id.
        head_only: Whether only the last layer is trained, as in SepCE.
        size: Height and width in pixels of a new network's input.
        epochs: Passes over the pictures.
        batch_size: Pictures per step.
        lr: The highest learning rate.
        weight_decay: The weight decay of AdamW.
        held_out: The share of each class that is used for testing only; SepCE uses 0.3.
        flip: Whether pictures are mirrored at random.
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


def new_classifier(settings: TrainSettings, classes: tuple[str, ...], device: str) -> TransformersClassifier:
    """Make a classifier of these classes, with its image processor.

    Args:
        settings: The settings of the training.
        classes: Names of the classes.
        device: The torch device to train on.

    Raises:
        BadInput: The classifier to start from cannot be opened, or `head_only` is set without one.
    """
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    if settings.start:
        return _fine_tuned(settings.start, names, device)
    if settings.head_only:
        raise BadInput("head_only needs a trained network: name one with start.")
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = _small_resnet(names) if settings.network == "resnet" else _small_vit(settings.size, names)
    processor = ViTImageProcessorPil(size={"height": settings.size, "width": settings.size})
    return TransformersClassifier(model.to(device), processor, device)


def head_of(model: nn.Module) -> nn.Module:
    """The last linear layer of a network."""
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


def _fine_tuned(start: str, names: dict[str, Any], device: str) -> TransformersClassifier:
    from transformers import AutoModelForImageClassification

    model, loading = open_part(
        AutoModelForImageClassification,
        start,
        "an image classifier",
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **names,
    )
    head = next(name for name, module in model.named_modules() if module is head_of(model))
    if missing := sorted(name for name in loading["missing_keys"] if not name.startswith(f"{head}.")):
        raise BadInput(f"Cannot start from '{start}': it lacks {missing[0]} and {len(missing) - 1} more weights.")
    return TransformersClassifier(model.to(device), image_processor(start), device)
