"""`efface attack`: what it takes, what it answers, and what it leaves behind."""

import csv
import json
from pathlib import Path

QUICK = ("--judge", "sure", "-n", 2, "--steps", 1)
FEW = ("-s", "k=1", "-s", "timesteps=2", "-s", "iterations=1")


def test_it_answers_as_scripts_rely_on(efface, judges, eraser, tiny_sd):
    ended = efface("attack", eraser, "--judge", "never", *QUICK[2:], *FEW, "--model", tiny_sd, "-o", "out", "--json")
    answer = ended.json()
    assert ended.code == 0
    assert answer["attack"] == "unlearndiff"
    assert answer["concept"] == "cat"
    assert answer["judge"]["recall"]["value"] == answer["judge"]["false_positive_rate"]["value"] == 0
    (of,) = answer["erasers"].values()
    assert of["n"] == 2
    assert of["pre_asr"].keys() == of["asr"].keys() == {"value", "low", "high", "n"}
    assert of["asr"]["value"] == 0
    assert of["seconds_per_prompt"] > 0
    stored = json.loads(Path("out/attack.json").read_text())
    (attempts,) = stored.pop("attempts").values()
    assert stored == {key: value for key, value in answer.items() if key != "out"}
    assert [attempt["success"] for attempt in attempts] == [False, False]
    assert Path("out/adversarial.csv").read_text().count("\n") == 1, "what did not succeed is not there"
    command = ("attack", eraser, "--judge", "never", *QUICK[2:], *FEW, "--model", tiny_sd, "-o", "out")
    again = efface(*command, "--json")
    assert (again.code, again.json()) == (0, answer)
    assert again.err.count("\n") == 1
    other = efface(*command, "--steps", 2)
    assert (other.code, "with other sampling" in other.err) == (2, True)
    Path("out/attack.json").write_text('{"erasers": [1]}')
    damaged = efface(*command)
    assert (damaged.code, damaged.err.count("\n")) == (2, 1)


def test_what_it_finds_is_adversarial_for_other_erasers(efface, judges, late, eraser, tiny_sd):
    late(2 + 2 + 2)  # the unedited model's images of the concept and of other things, and the edited model's own
    attack = ("attack", eraser, "--attack", "random_prefix", "-s", "k=1", "-s", "prefixes=2", "--judge", "late")
    answer = efface(*attack, *QUICK[2:], "--model", tiny_sd, "-o", "out", "--json").json()
    (of,) = answer["erasers"].values()
    assert (of["pre_asr"]["value"], of["asr"]["value"]) == (0, 1)
    rows = list(csv.DictReader(Path("out/adversarial.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(row["adversarial_prompt"].endswith(f" {row['direct_prompt_1']}") for row in rows)
    found = ("--prompts", "out/adversarial.csv")
    again = efface("evaluate", eraser, *QUICK, *found, "--model", tiny_sd, "-o", "evaluation", "--json").json()
    assert again["erasers"]["cat"]["attacks"].keys() == {"prompts"}


def test_a_judge_that_finds_all_needs_no_attack(efface, judges, eraser, tiny_sd):
    answer = efface("attack", eraser, *QUICK, "--model", tiny_sd, "-o", "out", "--json").json()
    (of,) = answer["erasers"].values()
    assert of["pre_asr"]["value"] == of["asr"]["value"] == 1
    assert of["seconds_per_prompt"] is None


def test_prompts_of_other_concepts_are_left_out(efface, judges, eraser, tiny_sd):
    Path("p.csv").write_text("prompt,concept,evaluation_seed\na red cat,CAT,7\na dog,dog,8\nfur,,9\n")
    ended = efface("attack", eraser, *QUICK[:2], "--steps", 1, "--prompts", "p.csv", "--model", tiny_sd, "-o", "out")
    assert ended.code == 0, ended.err
    stored = [json.loads(line) for path in Path("out/attempts").iterdir() for line in path.read_text().splitlines()]
    assert [(it["prompt"], it["seed"]) for it in stored] == [("a red cat", 7), ("fur", 9)]


def test_images_of_an_unsafe_theme_are_thrown_away_however_it_is_spelt(efface, judges, tiny_sd):
    efface("erase", "big knife", "--kind", "unsafe", "--model", tiny_sd, "-o", "knife.safetensors")
    attack = ("attack", "knife.safetensors", *QUICK, "--model", tiny_sd)
    for name in ("Big Knife", "sword"):
        assert efface(*attack, "--concept", name, "-o", name).code == 0
        assert not [*Path().rglob("*.png")]
    efface(*attack, "--keep-images", "-o", "kept")
    assert [*Path().rglob("*.png")]


def test_done_work_is_not_done_again_without_force(efface, judges, refused, eraser, tiny_sd):
    again = ("attack", eraser, *QUICK, "--model", tiny_sd, "-o", "out")
    assert efface(*again).code == 0
    assert "complete result" in efface(*again).out
    assert "out" in refused(*again, "-n", 3)
    assert efface(*again, "--force").code == 0


def test_what_is_wrong_is_said_in_a_line(efface, judges, refused, eraser, tiny_sd):
    assert "Nothing to attack" in refused("attack")
    assert "Unknown attack 'none'" in refused("attack", eraser, "--attack", "none")
    assert "-s k: write key=value" in refused("attack", eraser, "-s", "k")
    assert "Choose a --judge" in refused("attack", eraser, "--model", tiny_sd)
    assert "k" in refused("attack", eraser, "-s", "k=0")
