"""Vision-language judges: probabilities from logits, literal answers, and the challenge's file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from efface.cli.run import run
from efface.errors import BadInput
from efface.generation import Image
from efface.judges import judge_images, open_judge, read_verdicts
from efface.judges.pixels import PixelJudge
from efface.judges.verdicts import write_result_files
from efface.judges.vlm import ChallengeJudge, VlmJudge
from efface.judges.wrappers import JoinedJudge, WithPeers

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


def test_the_challenge_writes_its_results(
    judge_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i, pixels in enumerate(IMAGES):
        Picture.fromarray(pixels).save(f"images/{i}.png")
    lines = [f'{{"file_name": "{i}.png", "prompt": "a {word}"}}' for i, word in enumerate(("cat", "dog", "golf, ball"))]
    Path("images/metadata.jsonl").write_text("\n".join(lines))
    command = [
        "judge",
        "images",
        "--judge",
        f"vlm:{judge_files / 'llava'},challenge",
        "-q",
        "golf ball",
        "-o",
        "v.parquet",
    ]
    assert run([*command, "--device", "cpu"]) == 0
    with Path("evaluation_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    verdicts = read_verdicts(Path("v.parquet"))
    assert [row["answer"] for row in rows] == [verdict.answer for verdict in verdicts]
    assert [row["prompt"] for row in rows] == ["a cat", "a dog", "a golf, ball"]
    assert {row["concept_name"] for row in rows} == {"golf ball"}
    Path("v.parquet").unlink()
    assert run([*command, "--device", "cpu"]) == 2
    assert "evaluation_results.csv already exists" in capsys.readouterr().err
    assert not Path("v.parquet").exists()


def test_an_evaluation_writes_the_challenges_results_for_each_eraser(
    judge_files: Path, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    where = ["--model", str(tiny_sd), "--device", "cpu"]
    for guide in ("dog", "car"):
        target = f"to-{guide}.safetensors"
        assert run(["erase", "cat", "--to", guide, "--preserve", "horse", "-o", target, *where]) == 0
    judge = ["--judge", f"vlm:{judge_files / 'llava'},challenge"]
    few = ["-n", "2", "--steps", "1", "-o", "out"]
    assert run(["evaluate", "to-dog.safetensors", "to-car.safetensors", *judge, *few, *where]) == 0
    shots = json.loads(Path("out/report.json").read_text())["shots"]
    assert list(shots) == ["base", "to-dog", "to-car"]
    for name, asked in shots.items():
        with Path("out/results", name, "evaluation_results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        answers = {(row["concept_name"], row["file_name"]): (row["prompt"], row["answer"]) for row in rows}
        assert len(answers) == len(rows) > 0
        assert answers == {
            (shot["concept"], Path(shot["file"]).name): (shot["prompt"], "yes" if shot["found"] else "no")
            for shot in asked
        }
        assert all(Path("out/images", name, row["file_name"]).is_file() for row in rows)


def test_a_judge_that_another_one_asks_still_writes_its_results(judge_files: Path, tmp_path: Path) -> None:
    challenge = vlm(judge_files, "challenge")
    joined = JoinedJudge(PixelJudge({"a caption": [IMAGES[0]]}), WithPeers(challenge, ("cat", "dog")))
    images = []
    for i, pixels in enumerate(IMAGES):
        Picture.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append(Image({"file_name": f"{i}.png", "prompt": f"prompt {i}"}, tmp_path / f"{i}.png"))
    for name, judge in (("joined", joined), ("alone", challenge)):
        questions = ["cat", "a caption"] if judge is joined else ["cat"]
        write_result_files(judge, tmp_path / name, images, judge_images(judge, images, questions))
    rows = (tmp_path / "joined" / "evaluation_results.csv").read_text()
    assert rows == (tmp_path / "alone" / "evaluation_results.csv").read_text(), "none of what the other was asked"
    assert rows.count("\n") == 1 + len(IMAGES)
    write_result_files(PixelJudge(None), tmp_path / "nothing", images, [])
    assert not (tmp_path / "nothing").exists()


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
