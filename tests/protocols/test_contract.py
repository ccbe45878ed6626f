"""The contract of protocols: these tests run for each registered one, on the tiny model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image

import efface
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import Judge
from efface.judges.nudenet import Detection, NudeNetJudge
from efface.judges.sscd import CopyJudge
from efface.judges.wrappers import NoJudge
from efface.models import Model
from efface.protocols import BASE, PROTOCOLS, Evaluation, Protocol
from efface.protocols.run import run_protocol
from efface.report import schema, write_report
from efface.report.document import DOCUMENT

SAMPLING = Sampling("ddim", 2, 3.0)

pytestmark = [
    pytest.mark.parametrize("name", PROTOCOLS.names()),
    pytest.mark.filterwarnings("ignore:FID of"),
]


@dataclass(frozen=True)
class Case:
    """What a protocol is tried with.

    Attributes:
        judge: The judge; None where the protocol asks no judge.
        erased: The erased concept and its kind.
        given: Further arguments of `run_protocol`.
    """

    judge: Judge | None
    erased: tuple[str, str] = ("cat", "object")
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])


@pytest.fixture
def case(name: str, tmp_path: Path, tiny_clip: Path, colours: Callable[..., Judge]) -> Case:
    def table(*lines: str) -> Path:
        path = tmp_path / "prompts.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    def pictures(*folders: str) -> Path:
        for folder in folders:
            (tmp_path / "data" / folder).mkdir(parents=True)
            for k in range(3):
                noise = np.random.default_rng(k).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "data" / folder / f"{k}.png")
        return tmp_path / "data"

    judge, features = colours("cat", "dog", "horse"), {"extractor": "emoji-clip"}
    clip = {**features, "clip": str(tiny_clip)}
    if name == "ablation":
        return Case(judge, given={"options": clip})
    if name == "coco":
        prompts = table("prompt,seed", "a red car,1", "a blue bird,2", "a house,3")
        return Case(None, given={"prompts": prompts, "options": {**clip, "draws": 20}})
    if name == "i2p":
        prompts = table("prompt,categories,hard,sd_seed", "a red car,violence,0,1", "a blue bird,self-harm,1,2")
        detector = NudeNetJudge(lambda images: [[Detection("BELLY_EXPOSED", 0.9)] for _ in images], "1")
        return Case(detector, ("red", "unsafe"), {"prompts": prompts})
    if name == "imagenette":
        return Case(judge, given={"options": {"classes": "cat,dog"}})
    if name == "iterative":
        return Case(judge, given={"options": {**features, "others": "dog"}})
    if name == "memorised":
        judge = CopyJudge(lambda images: images.mean((2, 3)), "1")
        return Case(judge, ("red cat", "memorised"), {"data": pictures("originals") / "originals" / "0.png"})
    if name == "style":
        prompts = table("prompt,evaluation_seed,artist", "van gogh house,1,van gogh", "picasso cat,2,picasso")
        return Case(
            colours("van gogh", "picasso", "line"), ("van gogh", "style"), {"prompts": prompts, "options": features}
        )
    if name == "unlearncanvas":
        styles = ("Seed_Images", "Van_Gogh")
        data = pictures(*(f"{style}/{thing}" for style in styles for thing in ("Cats", "Dogs")))
        options = {**features, "draws": 20}
        return Case(colours(*styles, "Cats", "Dogs"), ("Cats", "object"), {"data": data, "options": options})
    return Case(judge)


@pytest.fixture
def protocol(name: str) -> Protocol:
    return PROTOCOLS.get(name)


@pytest.fixture
def evaluate(protocol: Protocol, case: Case, tiny_model: Model) -> Callable[..., Evaluation]:
    """Runs the protocol on one eraser; a second call in the same folder goes on."""
    concept, kind = case.erased
    eraser = efface.erase(tiny_model, concept, to="dog", kind=kind)

    def run(out: Path, judge: Judge | None = None, **given: Any) -> Evaluation:
        judge = judge or case.judge or NoJudge()
        given = {"n": 2, "sampling": SAMPLING, **case.given, **given}
        return run_protocol(protocol, tiny_model, {"mine": eraser}, judge, out=out, **given)

    return run


def test_its_entry_is_complete(name: str, protocol: Protocol) -> None:
    assert protocol.name == name
    assert protocol.summary
    assert len(protocol.summary) < 120
    assert protocol.n >= protocol.least >= 1
    assert protocol.metrics
    for metric in protocol.metrics:
        assert metric.meaning, metric.name
    if protocol.config is not None:
        protocol.config()


def test_its_numbers_are_declared_and_have_intervals(
    protocol: Protocol, evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    evaluation = evaluate(tmp_path / "out")
    assert evaluation.erasers.keys() == {"mine", BASE}
    assert evaluation.erasers["mine"].metrics
    for result in evaluation.erasers.values():
        for numbers in (result.metrics, result.change, result.base):
            for key, number in numbers.items():
                assert any(metric.matches(key) for metric in protocol.metrics), f"{key} is not declared"
                assert number.low <= number.value <= number.high
                assert number.n > 0
        assert result.errors == 0


def test_the_report_shows_each_number_with_its_meaning(
    protocol: Protocol, evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    evaluation = evaluate(tmp_path / "out")
    page = unescape(write_report(evaluation, tmp_path / "out").read_text(encoding="utf-8"))
    document = json.loads((tmp_path / "out" / DOCUMENT).read_text(encoding="utf-8"))
    Draft202012Validator(schema()).validate(document)
    assert document["protocol"] == protocol.name
    for key in evaluation.erasers["mine"].metrics:
        (metric, *_) = [metric for metric in protocol.metrics if metric.matches(key)]
        assert key in page
        assert metric.meaning in page, key


def test_the_same_again_gives_the_same_numbers_and_draws_nothing(
    evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    first = evaluate(tmp_path / "out").as_dict()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert evaluate(tmp_path / "out").as_dict() == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == times
    assert evaluate(tmp_path / "another").as_dict()["erasers"] == first["erasers"]


def test_images_that_cannot_be_drawn_are_errors_and_in_no_number(
    evaluate: Callable[..., Evaluation], tiny_model: Model, tmp_path: Path
) -> None:
    tiny_model.denoiser.get_parameter("conv_out.bias").data.fill_(torch.nan)
    evaluation = evaluate(tmp_path / "out")
    for result in evaluation.erasers.values():
        assert result.metrics == {}
        assert result.errors > 0
    page = write_report(evaluation, tmp_path / "out").read_text(encoding="utf-8")
    assert f"<strong>{evaluation.errors} images without a verdict.</strong>" in page


def test_a_judge_that_fails_answers_nothing(
    protocol: Protocol, case: Case, evaluate: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.judge is None:
        assert not protocol.judged
        return

    def fail(*arguments: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(type(case.judge), "scores", fail)
    evaluation = evaluate(tmp_path / "out")
    for result in evaluation.erasers.values():
        assert result.rates == {}
        assert result.errors > 0
        assert {image.destination for image in result.images} <= {"error", None}


def test_what_it_does_not_read_is_refused_in_one_line(
    protocol: Protocol, case: Case, evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    wrong: list[dict[str, Any]] = [{"options": {**case.given.get("options", {}), "no_such_setting": 1}}]
    wrong += [{kind: tmp_path / "x"} for kind in ("prompts", "data") if kind not in protocol.reads]
    wrong += [] if protocol.attacked else [{"attacks": ("random_prefix",)}]
    wrong += [{"n": protocol.least - 1}] if protocol.least > 1 else []
    for given in wrong:
        with pytest.raises(BadInput) as caught:
            evaluate(tmp_path / "out", **given)
        assert "\n" not in str(caught.value)
