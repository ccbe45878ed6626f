"""Tiny judges of the real classes with random weights, and the same with weights that are no numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import load_file, save_file

from efface.judges.emoji import JudgeNet

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
LABELS = ("tench, Tinca tinca", "golf ball", "crane", "crane", "vincent-van-gogh", "van, motor van")
WORDS = "is there a an in this image picture answer with yes no or the style of cat dog van gogh <image>"


class Descriptor(torch.nn.Module):
    """What SSCD does, small."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(x)).mean((2, 3))


@pytest.fixture(scope="session")
def judge_files(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files of tiny judges; under `spoiled` the same names, with weights that are NaN."""
    root = tmp_path_factory.mktemp("judges")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _write(root, tiny_clip)
    spoiled = root / "spoiled"
    for path in [path for path in root.rglob("*") if path.is_file()]:
        copy = spoiled / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for path in spoiled.rglob("model.safetensors"):
        save_file({n: t * torch.nan if t.is_floating_point() else t for n, t in load_file(path).items()}, path)
    _write_sscd(spoiled, torch.nan)
    return root


def _write(root: Path, tiny_clip: Path) -> None:
    from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    shutil.copytree(tiny_clip, root / "clip")
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(LABELS))
    )
    ResNetForImageClassification(config).save_pretrained(root / "classifier")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "classifier")
    look = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    _write_llavas(root, look)
    np.save(root / "vectors.npy", np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32))
    _write_sscd(root)
    _write_emoji(root / "emoji")
    noise = np.random.default_rng(9).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Picture.fromarray(noise).save(root / "reference.png")


def _write_llavas(root: Path, look: Any) -> None:
    """LLaVA 1.5 and 1.6."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special, additional_special_tokens=["<image>"])
    tokenizer.image_token = "<image>"
    template = (
        "{% for m in messages %}{% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }} {% endfor %}{% endfor %}answer"
    )
    how: dict[str, Any] = {
        "tokenizer": tokenizer,
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": template,
    }
    text = {**LAYERS, "model_type": "llama", "num_key_value_heads": 4, "vocab_size": len(tokenizer)}
    config: dict[str, Any] = {
        "vision_config": {**LAYERS, "image_size": 32, "patch_size": 8, "model_type": "clip_vision_model"},
        "text_config": {**text, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        "image_token_index": vocabulary["<image>"],
        "vision_feature_layer": -1,
    }
    grid = [[32, 64], [64, 32], [64, 64]]
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    for name, model, processor in (
        ("llava", LlavaForConditionalGeneration(LlavaConfig(**config)), LlavaProcessor(image_processor=look, **how)),
        (
            "llava-next",
            LlavaNextForConditionalGeneration(LlavaNextConfig(**config, image_grid_pinpoints=grid)),
            LlavaNextProcessor(image_processor=LlavaNextImageProcessorPil(**size, image_grid_pinpoints=grid), **how),
        ),
    ):
        # Random weights as small as they start answer the same to every picture.
        for parameter in model.parameters():
            parameter.data.mul_(8)
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)


def _write_sscd(root: Path, scale: float = 1.0) -> None:
    network = Descriptor().eval()
    for parameter in network.parameters():
        parameter.data.mul_(scale)
    torch.jit.script(network).save(str(root / "sscd.pt"))


def _write_emoji(folder: Path) -> None:
    from efface.models.emoji import catalogue

    folder.mkdir()
    world = catalogue()  # the judge's words point to names of the embedded model's world
    names = {"objects": [o.name for o in world.objects], "styles": [s.name for s in world.styles]}
    net = JudgeNet(len(names["objects"]), len(names["styles"]))
    save_file(net.state_dict(), folder / "model.safetensors")
    content = {**names, "thresholds": {"object": 0.3, "style": 0.5}, "version": "tiny"}
    (folder / "config.json").write_text(json.dumps(content))
