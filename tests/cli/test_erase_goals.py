"""What `efface erase` hands to methods that draw, judge, or protect prompts by themselves."""

from dataclasses import replace
from pathlib import Path

from efface import Eraser
from efface.judges import JUDGES, JudgeOptions

BALANCE = ("--goal", "debias", "--to", "cat", "--to", "dog", "--judge", "sure")
FEW = ("-s", "num_images_per_prompt=2", "-s", "num_inference_steps=2")
MOMENT = ("-s", "layers=0,1", "-s", "epochs=1", "-s", "adam_steps=1", "-s", "batch_size=1", "-s", "sampling_steps=2")


def test_debias_asks_the_judge_and_says_the_shares(efface, tiny_sd, judges):
    ended = efface("erase", "a bird", *BALANCE, *FEW, "-s", "shares=1,0", "--model", tiny_sd, "--json")
    assert ended.json()["kind_of_edit"] == "text"
    assert "debiases a bird" in ended.err
    assert "Last images of 'a bird': cat 100%, dog 0%" in ended.err
    eraser = Eraser.load(ended.json()["eraser"])
    assert eraser.request.goal == "debias"
    assert eraser.request.concepts[0].attributes == {"cat": 1, "dog": 0}
    assert eraser.provenance["shares"] == [{"a bird": {"cat": 1, "dog": 0}}]


def test_the_judge_of_debiasing_computes_on_the_models_device(efface, tiny_sd, judges, monkeypatch):
    asked: list[JudgeOptions] = []
    entry = JUDGES.get("sure")
    monkeypatch.setitem(JUDGES._entries, "sure", replace(entry, open=lambda how: asked.append(how) or entry.open(how)))
    command = ("erase", "a bird", *BALANCE, *FEW, "-s", "shares=1,0", "--model", tiny_sd, "-o", "x.safetensors")
    assert efface(*command, "--device", "cpu:0").code == 0
    assert [how.device for how in asked] == ["cpu:0"]


def test_debiasing_erasers_are_composed_and_drawn_with(efface, tiny_sd, judges):
    shares = ("-s", "shares=1,0", "--model", tiny_sd)
    for name in ("a bird", "a boat"):
        assert efface("erase", name, *BALANCE, *FEW, *shares, "-o", f"{name[2:]}.safetensors").code == 0
    assert efface("erase", "horse", "--to", "dog", "--model", tiny_sd, "-o", "horse.safetensors").code == 0
    both = efface("compose", "bird.safetensors", "boat.safetensors", "-o", "both.safetensors", "--json")
    assert (both.json()["method"], both.json()["concepts"]) == ("uce", ["a bird", "a boat"])
    assert "debiases a bird, a boat" in both.err
    mixed = efface("compose", "both.safetensors", "horse.safetensors", "-o", "mixed.safetensors", "--json")
    assert mixed.json()["method"] == "composed"
    assert "erases horse" in mixed.err
    drawn = ("generate", "a bird", "--steps", 1, "--model", tiny_sd, "--json")
    for second in ("boat", "horse"):
        erasers = ("-e", "bird.safetensors", "-e", f"{second}.safetensors")
        assert efface(*drawn, *erasers, "-o", second).json()["errors"] == 0


def test_debias_from_a_file_and_without_success(efface, tiny_sd, judges):
    Path("r.yaml").write_text("goal: debias\nconcepts: [{name: a bird, attributes: {cat: 0.5, dog: 0.5}}]\n")
    rounds = ("-s", "max_iterations=2", "--judge", "sure", "--seed", 9)
    ended = efface("erase", "--config", "r.yaml", *rounds, *FEW, "--model", tiny_sd, "-o", "x.safetensors")
    assert ended.code == 0
    assert "warning: After 2 rounds" in ended.err
    eraser = Eraser.load("x.safetensors")
    assert len(eraser.provenance["shares"]) == 2
    assert eraser.provenance["settings"]["seed"] == 9


def test_the_command_lines_seed_takes_the_place_of_the_files(efface, tiny_sd):
    Path("r.yaml").write_text("concepts: [{name: Cat, guide: dog}]\nmethod: nullspace\noptions: {seed: 1}\n")
    given = {(): 1, ("--seed", 7): 7, ("--seed", 0): 0, ("--seed", 7, "-s", "seed=5"): 5}
    for k, (options, seed) in enumerate(given.items()):
        command = ("erase", "--config", "r.yaml", *options, *MOMENT, "--model", tiny_sd, "-o", f"{k}.safetensors")
        assert efface(*command).code == 0
        assert Eraser.load(f"{k}.safetensors").request.options["seed"] == seed


def test_goals_that_make_no_sense(refused, tiny_sd, judges):
    model = ("--model", tiny_sd)
    assert "goal" in refused("erase", "cat", "--goal", "forget", *model)
    assert "two attributes" in refused("erase", "cat", "--goal", "debias", "--to", "dog", *model)
    assert "--goal debias" in refused("erase", "cat", "--judge", "sure", *model)
    assert "shares" in refused("erase", "cat", "-s", "shares=1,0", *model)
    line = refused("erase", "cat", "--goal", "debias", "--to", "dog", "--to", "unheard-of", "--judge", "sure", *model)
    assert "unheard-of" in line
    Path("r.yaml").write_text("concepts: [cat]\n")
    assert "--goal" in refused("erase", "--config", "r.yaml", *BALANCE[:2], *model)
    assert "cannot debias" in refused("erase", "a bird", *BALANCE, "--method", "nullspace", *model)


def test_a_file_of_prompts_takes_the_place_of_the_everyday_ones(efface, tiny_sd):
    command = ("erase", "Cat", "--to", "dog", "--method", "nullspace", "--model", tiny_sd, *MOMENT, "-o")
    assert efface(*command, "a.safetensors", "--preserve", "a horse").code == 0
    assert "everyday" not in Eraser.load("a.safetensors").request.options
    Path("keep.txt").write_text("a horse\na car\n")
    assert efface(*command, "b.safetensors", "--preserve-file", "keep.txt", "--seed", 3).code == 0
    eraser = Eraser.load("b.safetensors")
    assert eraser.request.preserve == ("a horse", "a car")
    assert (eraser.request.options["everyday"], eraser.request.options["seed"]) == (False, 3)
    assert efface(*command, "c.safetensors", "--preserve-file", "keep.txt", "-s", "everyday=true").code == 0
    assert Eraser.load("c.safetensors").request.options["everyday"] is True


def test_a_text_encoder_with_too_few_layers(refused, tiny_sd):
    line = refused("erase", "cat", "--to", "dog", "--method", "nullspace", "--model", tiny_sd)
    assert "layers=0,1" in line
