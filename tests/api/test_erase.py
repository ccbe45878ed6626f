from pathlib import Path
from typing import Any

import pytest

import efface
from efface import BadInput, BadRequest, Eraser, Request
from efface.api.erasers import default_name
from efface.api.result import eraser_json, sources_json
from efface.judges import JUDGES, JudgeEntry, JudgeOptions

QUICK: dict[str, Any] = {"layers": "0,1", "epochs": 1, "adam_steps": 1, "batch_size": 1, "sampling_steps": 2}


def test_it_returns_what_the_command_prints(answer, tiny_sd):
    printed = answer("erase", "cat", "a bird", "--to", "dog", "--preserve", "horse", "--certify", "--model", tiny_sd)
    eraser = efface.erase(tiny_sd, ["cat", "a bird"], "dog", preserve=["horse"], certify=True)
    seconds = printed.pop("seconds")
    expected = {**eraser_json(eraser, Path(printed["eraser"])), **sources_json(eraser)}
    assert {**expected, "certificate": eraser.certificate} == printed
    assert printed["guide_from"] == {"cat": "user", "a bird": "user"}
    assert set(seconds) == {"total", "solve"}
    assert eraser.provenance["seconds"]["solve"] > 0
    assert printed["eraser"] == f"{default_name(eraser.request)}.safetensors" == "cat-a-bird-uce.safetensors"
    assert Eraser.load(printed["eraser"]).hash == eraser.hash


def test_an_open_model_its_pipeline_and_its_name_give_one_eraser(tiny_sd):
    model = efface.open_model(tiny_sd)
    erasers = [efface.erase(target, "cat", "dog") for target in (model, model.pipeline(), str(tiny_sd), tiny_sd)]
    assert len({eraser.hash for eraser in erasers}) == 1


def test_prompts_of_a_file_and_a_seed_are_settings_of_a_method_that_has_them(tiny_sd, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a horse\na car\n")
    plain = efface.erase(tiny_sd, "Cat", method="cure", preserve=["house"], preserve_file=path, seed=3)
    request = plain.request
    assert (request.preserve, request.options) == (("house", "a horse", "a car"), {})
    trained = efface.erase(tiny_sd, "Cat", "dog", method="nullspace", preserve_file=path, seed=3, **QUICK)
    assert (trained.request.options["everyday"], trained.request.options["seed"]) == (False, 3)


def test_a_request_is_taken_as_it_is_and_added_to(tiny_sd):
    request = Request.make("cat", "dog", preserve=["horse"], options={"lamb": 0.5})
    assert efface.erase(tiny_sd, request).request == request
    extended = efface.erase(tiny_sd, request, preserve=["car"], erase_scale=2.0).request
    assert (extended.preserve, extended.options) == (("horse", "car"), {"lamb": 0.5, "erase_scale": 2.0})


def test_a_judge_is_given_by_name_and_asked_for_the_attributes(tiny_sd, brightness, monkeypatch):
    asked: list[JudgeOptions] = []
    entry = JUDGES.get("brightness")
    monkeypatch.setitem(
        JUDGES._entries,
        "brightness",
        JudgeEntry("brightness", "", "", lambda how: asked.append(how) or entry.open(how)),
    )
    few: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 1, "max_iterations": 1, "max_diff": 1.0}
    eraser = efface.erase(tiny_sd, "cat", ["bright", "dark"], goal="debias", judge="brightness", **few)
    assert [(how.alternatives, how.device) for how in asked] == [(("bright", "dark"), "cpu")]
    assert eraser.request.goal == "debias"
    with pytest.raises(BadInput, match="--judge brightness is for"):
        efface.erase(tiny_sd, "cat", judge="brightness")


def test_bad_input_is_refused(tiny_sd):
    with pytest.raises(BadRequest, match="--certify"):
        efface.erase(tiny_sd, "cat", ["man", "woman"], goal="debias", certify=True)
    with pytest.raises(BadInput, match="Unknown device 'magic'"):
        efface.erase(tiny_sd, "cat", device="magic")
