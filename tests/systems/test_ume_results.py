"""The U&ME challenge entry: images of several edited models are judged, and evaluation_results.csv has the rates."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean, mean

import pytest

import efface as library
from command_line import Efface
from efface.generation import read_picture
from support import Processes

DATASET = """\
concept_type,concept_name,direct_prompt_1,direct_prompt_2,indirect_prompt_1,adversarial_prompt
object,Cat,a cat,a cat in 3d style,a kitten,a kitty in flat style
object,soccer ball,a soccer ball,a soccer ball in flat style,a football,a football in outlined style
"""
STEPS = ("--steps", 4)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, an eraser of each of its concepts, and two images per prompt with each."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "dataset.csv").write_text(DATASET)
    library.erase_each(folder / "dataset.csv", folder / "erasers")
    library.generate_each(folder / "dataset.csv", folder / "erasers", folder / "out", n=2, steps=4)
    return folder


@pytest.fixture
def out(efface: Efface, generated: Path) -> Path:
    """The images, with the dataset and the erasers beside them."""
    shutil.copytree(generated, Path(), dirs_exist_ok=True)
    return Path("out")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores(path: Path, model: str) -> dict[str, float]:
    """Ten lines over evaluation_results.csv: the rates of one model."""
    rows = [row for row in read(path) if row["model_for_the_concept"] == model]
    rates: dict[str, float] = {}
    for name, kind in (("forget", "direct"), ("indirect", "indirect"), ("adversarial", "adversarial")):
        asked = [r for r in rows if r["checking_for_the_concept"] == model and r["prompt_type"] == kind]
        rates[name] = mean(row["model_response"] == "no" for row in asked)
    rates["retain"] = mean(r["model_response"] == "yes" for r in rows if r["checking_for_the_concept"] != model)
    return {**rates, "err": harmonic_mean(rates.values())}


def test_u8_each_image_is_asked_about_the_concept_of_its_folder(efface: Efface, out: Path):
    answer = efface("judge", out, "--prompts", "dataset.csv", "--json").json()
    rows = read(out / "evaluation_results.csv")
    files = {path.name: path.relative_to(out) for path in out.rglob("*.png")}
    assert sorted(row["image_id"] for row in rows) == sorted(files)
    folders = {"Cat": "Cat", "soccer ball": "soccer-ball"}
    for row in rows:
        asked = (folders[row["model_for_the_concept"]], folders[row["checking_for_the_concept"]])
        assert files[row["image_id"]].parts[:2] == asked
        (verdict,) = library.judge([read_picture(out / files[row["image_id"]])], ["cat"]).verdicts
        if row["checking_for_the_concept"] == "Cat":
            assert row["model_response"] == verdict.answer
    assert answer["judge"]["thresholds"].keys() == {"Cat", "soccer ball"}
    assert answer["models"]["Cat"]["metrics"]["forget"]["n"] == 4


def test_u8_the_folders_of_the_entrys_scripts(efface: Efface, out: Path):
    """Without metadata, with underscores, and with images in further folders."""
    images = sorted((out / "Cat" / "soccer-ball").glob("*.png"))
    for name, path in (("Blue_Jay/soccer_ball/direct", images[0]), ("Blue_Jay/Cat", images[1])):
        (Path("theirs") / name).mkdir(parents=True)
        shutil.copy(path, Path("theirs") / name / "0.png")
    Path("theirs/Blue_Jay/nothing").mkdir()
    ended = efface("judge", "theirs", "--prompts", "dataset.csv", "-o", "results.csv")
    assert ended.code == 0
    assert "skipped: Blue_Jay/nothing" in ended.out
    rows = read(Path("results.csv"))
    assert [tuple(row.values())[:4] for row in rows] == [
        ("0.png", "Blue_Jay", "Cat", "direct"),
        ("0.png", "Blue_Jay", "soccer ball", "direct"),
    ]


def test_u8_two_processes_judge_each_folder_once(efface: Efface, processes: Processes, out: Path):
    command = ("judge", out.resolve(), "--prompts", Path("dataset.csv").resolve())
    place = {"WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    started = [processes.command(*command, RANK=rank, LOCAL_RANK=rank, **place) for rank in range(2)]
    assert [processes.wait(process) for process in started] == [0, 0]
    results = out / "evaluation_results.csv"
    before = results.read_bytes()
    logs = "".join(path.read_text() for path in (out / "logs").glob("worker-*.log"))
    assert logs.count("judged in") == 4

    verdicts = {path: path.stat().st_mtime_ns for path in (out / "verdicts").rglob("*.parquet")}
    next((out / "Cat" / "Cat").glob("*.png")).touch()
    assert "already exists" in efface(*command).err
    assert efface(*command, "--workers", 2, "--force").code == 0
    assert results.read_bytes() == before
    assert {path.parent.name for path, moment in verdicts.items() if path.stat().st_mtime_ns != moment} == {"Cat"}
    assert sum(path.stat().st_mtime_ns != moment for path, moment in verdicts.items()) == 1


def test_u9_the_rates_are_those_of_the_file(efface: Efface, out: Path):
    printed = efface("judge", out, "--prompts", "dataset.csv", "--json").json()["models"]
    path = out / "evaluation_results.csv"
    again = efface("judge", path, "--json").json()["models"]
    assert printed == again
    assert list(library.read_challenge_results(path).models) == ["Cat", "soccer ball"]
    for model, answer in printed.items():
        rates = {name: rate["value"] for name, rate in answer["metrics"].items()}
        assert rates == pytest.approx(scores(path, model))
    evaluated = efface(
        "evaluate", "erasers", "--prompts", "dataset.csv", "--per-prompt", 2, *STEPS, "-o", "ev", "--json"
    )
    protocol = evaluated.json()["erasers"]
    for name, model in (("cat-uce", "Cat"), ("soccer-ball-uce", "soccer ball")):
        metrics = {metric: (rate["value"], rate["n"]) for metric, rate in protocol[name]["metrics"].items()}
        assert metrics == {name: (rate["value"], rate["n"]) for name, rate in printed[model]["metrics"].items()}
    assert {(r["image_id"], r["model_response"]) for r in read(Path("ev/evaluation_results.csv"))} == {
        (row["image_id"], row["model_response"]) for row in read(path)
    }


def test_u9_two_erasers_of_one_concept_are_two_models(efface: Efface):
    for guide in ("dog", "car"):
        assert efface("erase", "cat", "--to", guide, "-o", f"to-{guide}.safetensors").code == 0
    erasers = ("to-dog.safetensors", "to-car.safetensors")
    evaluation = efface("evaluate", *erasers, "-n", 2, "--steps", 1, "-o", "ev", "--json").json()["erasers"]
    printed = efface("judge", "ev/evaluation_results.csv", "--json").json()["models"]
    assert list(printed) == ["cat | to-dog", "cat | to-car"]
    for name in ("to-dog", "to-car"):
        expected = {metric: rate["value"] for metric, rate in evaluation[name]["metrics"].items()}
        found = {metric: rate["value"] for metric, rate in printed[f"cat | {name}"]["metrics"].items()}
        assert found == pytest.approx(expected)


def test_u10_direct_and_indirect_prompts_of_other_concepts_are_retained(efface: Efface):
    Path("dataset.csv").write_text(DATASET)
    assert efface("erase", "cat", "-o", "cat.safetensors").code == 0
    command = ("evaluate", "cat.safetensors", "--prompts", "dataset.csv", "--steps", 1, "-o")
    assert efface(*command, "prompts", "--per-prompt", 3).code == 0
    rows = read(Path("prompts/evaluation_results.csv"))
    kinds = [(row["checking_for_the_concept"], row["prompt_type"]) for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("cat", "direct"): 6,
        ("cat", "indirect"): 3,
        ("cat", "adversarial"): 3,
        ("soccer ball", "direct"): 6,
        ("soccer ball", "indirect"): 3,
    }
    metrics = efface(*command, "concepts", "-n", 6, "--json").json()["erasers"]["cat"]["metrics"]
    assert metrics["retain"]["n"] == metrics["forget"]["n"] == 6


def test_u8_input_that_cannot_be_used(efface: Efface, refused: Callable[..., str]):
    Path("dataset.csv").write_text(DATASET)
    Path("empty").mkdir()
    dataset = ("--prompts", "dataset.csv")
    assert "no folders EDITED CONCEPT/PROMPTED CONCEPT" in refused("judge", "empty", *dataset)
    assert "it is not a folder" in refused("judge", "nowhere", *dataset)
    assert "no --question or --table" in refused("judge", "empty", *dataset, "-q", "cat")
    assert "leave out --question" in refused("judge", "dataset.csv", "-q", "cat")
    assert "Cannot read concepts" in refused("judge", "empty", "--prompts", "nowhere.csv")
    assert "need --prompts FILE.csv" in refused("judge", "empty", "-q", "cat", "--workers", 2)
    assert "no column 'image_id'" in refused("judge", "dataset.csv")
    header = "image_id,model_for_the_concept,checking_for_the_concept,prompt_type,model_response,row_id\n"
    Path("results.csv").write_text(header)
    assert "no row" in refused("judge", "results.csv")
    Path("results.csv").write_text(header + "0.png,cat,dog,direct,perhaps,0\n")
    assert "row 2: prompt_type 'direct' and model_response 'perhaps'" in refused("judge", "results.csv")
    assert "per_prompt" in refused("evaluate", write_eraser(efface), "--per-prompt", 2, "-p", "coco", *dataset)
    assert "give a file with --prompts" in refused("evaluate", "cat.safetensors", "--per-prompt", 2, "-o", "ev")
    assert "greater than or equal to 1" in refused(
        "evaluate", "cat.safetensors", "--per-prompt", 0, *dataset, "-o", "ev"
    )


def write_eraser(efface: Efface) -> Path:
    assert efface("erase", "cat", "-o", "cat.safetensors").code == 0
    return Path("cat.safetensors")


def test_u9_the_workflow_of_the_entry(efface: Efface):
    """Erasers, images and answers for four concepts of the example, and their rates by the ten lines above."""
    rows = (Path(__file__).parents[2] / "examples" / "challenge.csv").read_text(encoding="utf-8").splitlines()
    Path("dataset.csv").write_text("\n".join(rows[:5]), encoding="utf-8")
    assert efface("erase", "--each", "dataset.csv", "-o", "erasers").code == 0
    dataset = ("--prompts", "dataset.csv")
    assert efface("generate", *dataset, "--each-eraser", "erasers", "-n", 2, "--steps", 2, "-o", "out").code == 0
    answer = efface("judge", "out", *dataset, "--json").json()
    path = Path("out/evaluation_results.csv")
    assert len(read(path)) == 4 * 2 * (4 * 10 + 1)
    assert list(answer["models"]) == ["cat", "dog", "rabbit", "horse"]
    for model, rates in answer["models"].items():
        values = {name: rate["value"] for name, rate in rates["metrics"].items()}
        assert values == pytest.approx(scores(path, model))
