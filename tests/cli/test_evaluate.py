"""What `efface evaluate` takes: files, folders and patterns, judges, prompts, requests and attacks."""

import json
from pathlib import Path

import pytest

from efface.api.erasers import eraser_files
from efface.errors import BadInput
from efface.protocols import PROTOCOLS, Plan, Prepared, Protocol

QUICK = ("--judge", "sure", "-n", 2, "--steps", 1)


def touched(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_files_go_by_their_stems(here):
    touched("a.safetensors", "b/c.safetensors")
    found = eraser_files(["b/c.safetensors", "a.safetensors", "a.safetensors"])
    assert list(found) == ["c", "a"]


def test_checkpoints_go_by_their_steps_in_order(here):
    touched(*(f"cat-esd.training/component-0-step-{step}.safetensors" for step in (100, 50, 5)))
    touched("cat-esd.training/component-0.checkpoint.safetensors", "cat-esd.training/component-0.jsonl")
    for argument in ("cat-esd.training", "cat-esd.training/*.safetensors", "*/component-0-step-*"):
        assert list(eraser_files([argument])) == ["step-5", "step-50", "step-100"]


def test_what_steps_do_not_tell_apart_their_trainings_do(here):
    touched("a.training/component-0-step-5.safetensors", "a.training/component-1-step-5.safetensors", "x.safetensors")
    assert list(eraser_files(["a.training", "x.safetensors"])) == ["component-0-step-5", "component-1-step-5", "x"]
    touched("b.training/component-0-step-5.safetensors")
    assert list(eraser_files(["*.training/*-0-*"])) == ["a-component-0-step-5", "b-component-0-step-5"]


def test_names_that_stay_alike_and_arguments_that_mean_nothing(here):
    touched("a.safetensors", "b/a.safetensors", "base.safetensors", "empty/note.txt")
    for arguments, printed in (
        (["a.safetensors", "b/a.safetensors"], "'a' is taken"),
        (["base.safetensors"], "'base' is taken"),
        (["empty"], "empty holds no eraser"),
        (["nothing-*"], "no eraser matches the pattern"),
    ):
        with pytest.raises(BadInput, match=printed):
            eraser_files(arguments)


def test_a_folder_of_erasers_is_evaluated_side_by_side(efface, judges, eraser, tiny_sd):
    Path("steps").mkdir()
    for step in (20, 3):
        Path(f"steps/component-0-step-{step}.safetensors").write_bytes(eraser.read_bytes())
    answer = efface("evaluate", "steps", *QUICK, "--model", tiny_sd, "-o", "out", "--json").json()
    assert list(answer["erasers"]) == ["base", "step-3", "step-20"]
    assert answer["ranking"] == ["step-3", "step-20"]
    assert answer["erasers"]["step-3"]["weight_change"] > 0


def test_prompts_from_a_file(efface, judges, refused, eraser, tiny_sd):
    Path("challenge.csv").write_text(
        "concept_name,direct_prompt_1,indirect_prompt_1,adversarial_prompt\nCat,the cat,a mouser,c4t\nBird,the bird,,\n"
    )
    command = ("evaluate", eraser, *QUICK, "--prompts", "challenge.csv", "--model", tiny_sd)
    ended = efface(*command, "-o", "out", "--json")
    answer = ended.json()
    for metric in ("forget", "indirect", "adversarial"):
        assert f"{metric}: images for cat show: concept 100%" in ended.err
    metrics = answer["erasers"]["cat"]["metrics"]
    assert {name: rate["n"] for name, rate in metrics.items() if name != "err"} == {
        "forget": 2,
        "retain": 2,
        "indirect": 1,
        "adversarial": 1,
    }
    assert answer["provenance"]["inputs"]["prompts"]["name"] == "challenge.csv"
    assert answer["erasers"]["cat"]["went_by"] == {m: {"cat": {"concept": 1}} for m in ("indirect", "adversarial")}
    shots = json.loads(Path("out/report.json").read_text())["shots"]["cat"]
    assert {shot["prompt"] for shot in shots} == {"the cat", "the bird", "a mouser", "c4t"}
    Path("out/report.html").unlink()
    Path("challenge.csv").write_text("prompt\na cat\n")
    assert "other work" in efface(*command, "-o", "out").err
    assert "gone.csv" in refused("evaluate", eraser, *QUICK, "--prompts", "gone.csv", "--model", tiny_sd)


def test_a_request_says_what_to_ask_about(efface, judges, eraser, tiny_sd):
    Path("ask.yaml").write_text("concepts: [{name: cat, adjacent: [bird], adversarial: [c4t]}]\npreserve: [car]\n")
    command = ("evaluate", eraser, *QUICK, "--request", "ask.yaml", "--model", tiny_sd, "--json")
    answer = efface(*command).json()
    assert {"adjacent", "adversarial", "retain", "err"} <= set(answer["erasers"]["cat"]["metrics"])


def test_attacks_are_chosen_by_name(efface, judges, refused, eraser, tiny_sd):
    command = ("evaluate", eraser, "--judge", "sure", "--steps", 1, "--model", tiny_sd)
    ended = efface(*command, "-n", 8, "--attack", "random_prefix", "-o", "out", "--json")
    assert set(ended.json()["erasers"]["cat"]["attacks"]) == {"random_prefix"}
    assert "adversarial, by random_prefix" in ended.err
    assert "random_prefix" in refused(*command, "-n", 8, "--attack", "magic")


def test_a_proposal_of_neighbours_is_printed_and_nothing_is_drawn(efface, eraser, tiny_sd):
    ended = efface("evaluate", eraser, "--propose-adjacent", "--model", tiny_sd, "--json")
    assert ended.code == 0
    assert len(ended.json()["adjacent"]["cat"]) == 10
    assert "adjacent: [" in ended.err
    assert not Path("err-cat").exists()


def test_torchscript_is_run_where_it_is_trusted(refused, eraser, tiny_sd):
    Path("weights.pt").write_bytes(b"no TorchScript")
    command = ("evaluate", eraser, "--judge", "sscd:weights.pt", "-n", 2, "--model", tiny_sd)
    assert "--trust-torchscript" in refused(*command)
    assert "Cannot read SSCD's weights" in refused(*command, "--trust-torchscript")


def test_err_refuses_unknown_settings_and_reads_no_data(refused, eraser, judges, tiny_sd):
    assert "Unknown option 'a'" in refused("evaluate", eraser, *QUICK, "-s", "a=1", "--model", tiny_sd)


def test_a_debiasing_eraser_is_told_what_to_do_instead(refused, efface, judges, tiny_sd):
    few = ("-s", "num_images_per_prompt=2", "-s", "num_inference_steps=2", "-s", "shares=1,0", "--judge", "sure")
    goal = ("--goal", "debias", "--to", "red", "--to", "blue")
    assert efface("erase", "cat", *goal, *few, "--model", tiny_sd, "-o", "fair.safetensors").code == 0
    assert "efface judge DIR" in refused("evaluate", "fair.safetensors", *QUICK, "--model", tiny_sd)


def test_a_protocol_that_asks_no_judge_needs_none(efface, refused, eraser, tiny_sd, monkeypatch):
    def prepare(evaluation):
        assert not evaluation.judge.knows("cat")
        return Prepared(dict.fromkeys(evaluation.requests, Plan(())), evaluation.judge, labelled=False)

    command = ("evaluate", eraser, "--protocol", "measuring", "--model", tiny_sd)
    for judged in (False, True):
        entry = Protocol("measuring", "", "", (), prepare, judged=judged)
        monkeypatch.setitem(PROTOCOLS._entries, "measuring", entry)
        if judged:
            assert "Choose a --judge" in refused(*command, "-o", "other")
        else:
            assert efface(*command, "-o", "out", "--json").json()["judge"]["name"] == "none"
            assert "asks no judge" in refused(*command, "-o", "other", "--judge", "clip")
