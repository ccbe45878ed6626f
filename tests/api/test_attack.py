import json
from pathlib import Path
from typing import Any

import pytest

import efface
from efface import BadInput
from efface.attacks import ATTACKS

QUICK = ("--attack", "random_prefix", "-s", "prefixes=2", "--concept", "bright", "--judge", "brightness", "-n", 2)
GIVEN: dict[str, Any] = {"concept": "bright", "judge": "brightness", "n": 2, "steps": 1, "settings": {"prefixes": 2}}


def without_time(content: Any) -> Any:
    """JSON without durations."""
    if isinstance(content, dict):
        return {key: without_time(value) for key, value in content.items() if not key.startswith("seconds")}
    return [without_time(value) for value in content] if isinstance(content, list) else content


def test_it_returns_what_the_command_prints(answer, brightness, eraser, tiny_sd):
    eraser.save("cat.safetensors")
    printed = answer("attack", "cat.safetensors", *QUICK, "--steps", 1, "--model", tiny_sd, "-o", "one")
    result = efface.attack("cat.safetensors", "random_prefix", model=tiny_sd, folder="two", **GIVEN)
    assert without_time({**result.to_json(), "out": "one"}) == without_time(printed)
    one, two = (json.loads(Path(folder, "attack.json").read_text()) for folder in ("one", "two"))
    assert without_time(one) == without_time(two)
    asr = result.erasers["cat"].asr
    assert printed["erasers"]["cat"]["asr"] == (asr and asr.as_dict())


def test_without_a_folder_only_the_object_has_the_result(answer, brightness, eraser, tiny_sd):
    result = efface.attack({"mine": eraser}, ATTACKS.get("random_prefix"), model=tiny_sd, **GIVEN)
    assert not list(Path().iterdir())
    assert result.out is None
    assert len(result.erasers["mine"].attempts) == 2
    assert result.to_json()["out"] is None


def test_bad_input_is_refused(answer, brightness, eraser, tiny_sd):
    with pytest.raises(BadInput, match="no eraser"):
        efface.attack({}, "random_prefix", model=tiny_sd, **GIVEN)
    given: dict[str, Any] = GIVEN | {"concept": "cat"}
    with pytest.raises(BadInput, match="cannot recognise 'cat'"):
        efface.attack(eraser, "random_prefix", model=tiny_sd, **given)
    with pytest.raises(BadInput, match="Unknown attack 'magic'"):
        efface.attack(eraser, "magic", model=tiny_sd, **GIVEN)
