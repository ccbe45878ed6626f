from pathlib import Path

import pytest

import efface
from efface import BadFile

SETTINGS = {"size": 32, "epochs": 2, "batch_size": 4}


def test_it_returns_what_the_command_prints(answer, pictures):
    options = [part for key, value in SETTINGS.items() for part in ("-s", f"{key}={value}")]
    printed = answer("judge", "train", pictures, *options, "--seed", 3, "-o", "one")
    result = efface.train_judge(pictures, "two", settings=SETTINGS, seed=3)
    assert {**result.to_json(), "judge": "style:one"} == printed
    assert result.judge == "style:two"
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()
    assert efface.open_judge(result.judge).knows("disc")
    with pytest.raises(BadFile, match="already complete"):
        efface.train_judge(pictures, "two", settings=SETTINGS, seed=3)
