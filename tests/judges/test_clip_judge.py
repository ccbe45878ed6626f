"""The zero-shot judge on a tiny random CLIP of the real classes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.clip import NOTHING, ClipJudge


@pytest.fixture(scope="module")
def folder(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 12,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


def judge_of(folder: Path, *alternatives: str) -> ClipJudge:
    judge = open_judge(f"clip:{folder}", alternatives)
    assert isinstance(judge, ClipJudge)
    return judge


def test_score_is_a_softmax_over_the_alternatives(folder: Path, images: np.ndarray) -> None:
    judge = judge_of(folder, "dog", "horse")
    scores = judge.scores(images, ["cat", "dog"])
    logits = judge.logits(images, ["a cat", "a dog", "a horse", NOTHING])
    assert scores[:, 0] == pytest.approx(logits.softmax(1)[:, 0].numpy())
    rivals = judge.logits(images, ["a dog", "a horse", "a cat", NOTHING])
    assert scores[:, 1] == pytest.approx(rivals.softmax(1)[:, 0].numpy())


def test_without_alternatives_something_else_is_one(folder: Path, images: np.ndarray) -> None:
    judge = judge_of(folder)
    expected = judge.logits(images, ["a cat", NOTHING]).softmax(1)[:, 0].numpy()
    assert judge.scores(images, ["cat"])[:, 0] == pytest.approx(expected)


def test_logits_are_scaled_cosines(folder: Path, images: np.ndarray) -> None:
    from transformers import CLIPModel

    scale = CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    assert judge_of(folder).logits(images, ["a cat", "a dog"]).abs().max().item() <= scale + 1e-6


def test_not_a_clip(tiny_sd: Path) -> None:
    with pytest.raises(BadInput, match="Cannot open a CLIP model"):
        open_judge(f"clip:{tiny_sd}")
