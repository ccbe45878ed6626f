from pathlib import Path
from typing import Any

import pytest

import efface
from efface import BadInput
from efface.protocols import PROTOCOLS, Evaluation

QUICK = ("--judge", "brightness", "-n", 2, "--steps", 1)


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    """A request about concepts that the judge of brightness knows."""
    path = tmp_path / "request.yaml"
    path.write_text("concepts: [{name: bright, guide: dark}]\npreserve: [dark]\n")
    return path


def test_it_returns_what_the_command_prints(answer, brightness, eraser, tiny_sd, request_file):
    eraser.save("cat.safetensors")
    printed = answer("evaluate", "cat.safetensors", *QUICK, "--model", tiny_sd, "--request", request_file, "-o", "one")
    result = efface.evaluate(
        "cat.safetensors", model=tiny_sd, judge="brightness", n=2, steps=1, request=request_file, folder="two"
    )
    assert {**result.to_json(), "report": "one/report.html"} == printed
    assert result.report == Path("two/report.html")
    names = ("report.json", "efface.json")
    assert all((Path("one") / name).read_bytes() == (Path("two") / name).read_bytes() for name in names)
    rate = result.erasers["cat"].metrics["forget"]
    assert printed["erasers"]["cat"]["metrics"]["forget"] == rate.as_dict()


def test_without_a_folder_nothing_is_written_where_the_user_works(brightness, eraser, tiny_sd, request_file, answer):
    result = efface.evaluate(
        {"mine": eraser}, model=tiny_sd, judge=efface.open_judge("brightness"), n=2, steps=1, request=request_file
    )
    assert not list(Path().iterdir())
    assert result.report is not None
    folder = result.report.parent
    assert all(image.path and image.path.exists() for image in result.erasers["mine"].images)
    del result
    assert not folder.exists()


def test_the_same_work_resumes_and_other_work_is_refused(brightness, eraser, tiny_sd, request_file, answer):
    def run(n: int, **options: Any) -> Evaluation:
        return efface.evaluate(
            eraser, model=tiny_sd, judge="brightness", n=n, steps=1, request=request_file, folder="out", **options
        )

    first = run(2)
    with pytest.raises(efface.AlreadyComplete, match="already complete") as caught:
        run(2)
    assert caught.value.result == Path("out/report.html")
    with pytest.raises(BadInput, match="other work"):
        run(3)
    assert run(2, force=True).to_json() == first.to_json()


def test_neighbours_are_proposed_as_the_command_prints_them(answer, eraser, tiny_sd):
    eraser.save("cat.safetensors")
    printed = answer("evaluate", "cat.safetensors", "--propose-adjacent", "--model", tiny_sd)
    assert efface.propose_adjacent("cat.safetensors", model=tiny_sd) == printed["adjacent"]


def test_a_protocol_may_be_given_itself(brightness, eraser, tiny_sd, request_file, answer):
    entry = PROTOCOLS.get("err")
    result = efface.evaluate(eraser, entry, model=tiny_sd, judge="brightness", n=2, steps=1, request=request_file)
    assert result.protocol == "err"
    with pytest.raises(BadInput, match="Choose a --judge"):
        efface.evaluate(eraser, entry, model=tiny_sd)


def no_image(*_: object, wanted: set[int], **__: object) -> tuple[()]:
    """The sampler of a machine on which nothing is generated."""
    assert not wanted
    return ()


def test_two_stages_give_the_result_of_one_with_attacks_too(
    brightness, eraser, tiny_sd, request_file, answer, monkeypatch
):
    def run(folder: str, stage: str | None = None) -> Evaluation:
        options: dict[str, Any] = {"judge": "brightness", "n": 8, "steps": 1, "request": request_file, "stage": stage}
        return efface.evaluate({"cat": eraser}, model=tiny_sd, folder=folder, **options)

    whole = run("one").as_dict()
    assert whole["erasers"]["cat"]["attacks"]
    assert run("two", "generate").report is None
    monkeypatch.setattr("efface.generation.run._libraries", lambda: "those of another machine")
    monkeypatch.setattr("efface.generation.run.sample", no_image)
    assert run("two", "judge").as_dict() == whole
    with pytest.raises(BadInput, match="give one"):
        efface.evaluate(eraser, model=tiny_sd, judge="brightness", stage="generate")
