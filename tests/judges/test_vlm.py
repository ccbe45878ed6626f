"""Vision-language judges: probabilities from logits, literal answers, and the challenge's file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from efface.errors import BadInput
from efface.judges import open_judge
from efface.judges.vlm import ChallengeJudge, VlmJudge

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)


def vlm(judge_files: Path, option: str = "presence") -> VlmJudge:
    judge = open_judge(f"vlm:{judge_files / 'llava'},{option}")
    assert isinstance(judge, VlmJudge)
    return judge


@pytest.mark.parametrize(
    ("option", "question"),
    [
        ("presence", "Is there golf in this image? Answer yes or no."),
        ("style", "Is this image in the style of golf? Answer yes or no."),
    ],
)
def test_the_score_compares_yes_and_no_at_the_first_position(judge_files: Path, option: str, question: str) -> None:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(judge_files / "llava").eval()
    processor = LlavaProcessor.from_pretrained(judge_files / "llava")
    yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = []
    for pixels in IMAGES:
        inputs = processor(images=Picture.fromarray(pixels), text=f"<image> {question} answer", return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].double()
        expected.append(torch.stack([logits[yes], logits[no]]).softmax(0)[0].item())
    assert vlm(judge_files, option).scores(IMAGES, ["golf"])[:, 0] == pytest.approx(expected, abs=1e-5)


def test_wording_and_band_are_in_the_version(judge_files: Path) -> None:
    judge = vlm(judge_files)
    assert (judge.threshold("cat"), judge.floor("cat")) == (0.6, 0.4)
    for part in ('"Is there {} in this image? Answer yes or no."', "undecided from 0.4 to 0.6", "float32", "PIL"):
        assert part in judge.version


def test_the_challenge_reads_words(judge_files: Path) -> None:
    judge = vlm(judge_files, "challenge")
    assert isinstance(judge, ChallengeJudge)
    assert judge.wording == "Is there a {} in this picture? Answer with 'yes' or 'no'."
    answers = judge.generate(IMAGES, judge.wording.format("dog"), 5)[1]
    assert judge.scores(IMAGES, ["dog"])[:, 0].tolist() == ["yes" in words[-5:].lower() for words in answers]


def test_a_model_without_a_template_gets_llavas_turns(judge_files: Path, tmp_path: Path) -> None:
    for path in (judge_files / "llava").iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    judge = open_judge(f"vlm:{tmp_path}")
    scores = judge.scores(IMAGES, ["cat"])
    assert np.isfinite(scores).all()


def test_unknown_wording(judge_files: Path) -> None:
    with pytest.raises(BadInput, match="presence, style, challenge"):
        vlm(judge_files, "poem")
