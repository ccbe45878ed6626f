"""`efface judge train`: a word beside `efface judge DIR`, with the same manners."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FAST = ("-s", "size=32", "-s", "epochs=1", "-s", "batch_size=8")


@pytest.fixture
def pictures(efface) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        Path("pictures", label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"pictures/{label}/{i}.png")
    return Path("pictures")


def test_it_makes_a_judge_that_judges(efface, pictures):
    answer = efface("judge", "train", pictures, "-o", "mine", *FAST, "--json").json()
    assert answer["judge"] == "style:mine"
    assert (answer["classes"], answer["learned_from"], answer["held_out"]) == (["cat", "dog"], 4, 4)
    assert np.array(answer["confusion"]).sum() == 4
    judged = efface("judge", pictures / "cat", "--judge", answer["judge"], "-q", "cat", "--json").json()
    assert judged["judge"]["thresholds"] == {"cat": 0.5}
    assert judged["questions"]["cat"]["rate"]["n"] == 4
    again = efface("judge", "train", pictures, "-o", "mine", *FAST, "--json")
    assert (again.code, again.json()) == (0, answer)
    assert "mine has the complete result of this command" in again.err
    other = efface("judge", "train", pictures, "-o", "mine", *FAST, "--seed", 1)
    assert (other.code, "with other seed" in other.err) == (2, True)
    (pictures / "cat" / "0.png").write_bytes((pictures / "dog" / "0.png").read_bytes())
    other = efface("judge", "train", pictures, "-o", "mine", *FAST)
    assert (other.code, "learned from other pictures" in other.err) == (2, True)


def test_a_folder_called_train_can_still_be_judged(efface, pictures, judges):
    (pictures / "cat").rename("train")
    assert efface("judge", "./train", "--judge", "sure", "-q", "cat").code == 0
    assert "judge train" in efface("--help").out


def test_what_cannot_be_trained_is_refused(refused, pictures):
    assert "gone" in refused("judge", "train", "gone")
    assert "colour" in refused("judge", "train", pictures, "--labels", "colour")
    assert "epochs" in refused("judge", "train", pictures, "-s", "epochs=0")
    assert "epoch" in refused("judge", "train", pictures, "-s", "epoch=3")
    assert "start" in refused("judge", "train", pictures, "-s", "head_only=true", "-o", "mine")
    assert "DIR" in refused("judge", "train")
    assert "--seed" in refused("judge", "train", pictures, "--seed", -1)


def test_a_picture_that_is_gone_is_named(refused, pictures):
    rows = [{"file_name": f"{label}/{i}.png", "concept": label} for label in ("cat", "dog") for i in range(4)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (pictures / "dog" / "2.png").unlink()
    line = refused("judge", "train", pictures, "--labels", "concept", *FAST)
    assert f"Cannot learn from {pictures / 'dog' / '2.png'}: No such file" in line


def test_torchscript_is_not_run_unasked(refused, pictures):
    Path("sscd.pt").write_bytes(b"PK")
    picture = pictures / "cat" / "0.png"
    assert "--trust-torchscript" in refused("judge", pictures / "cat", "--judge", "sscd:sscd.pt", "-q", picture)
