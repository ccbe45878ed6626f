import pytest

import efface
from efface import BadInput, Eraser
from efface.api.inspect import Component, EraserInfo, ModelInfo


def test_it_returns_what_the_command_prints_of_an_eraser(answer, tiny_sd):
    eraser = efface.erase(tiny_sd, ["cat", "bird"], "dog")
    eraser.save("cat.safetensors")
    printed = answer("inspect", "cat.safetensors")
    info = efface.inspect("cat.safetensors")
    assert isinstance(info, EraserInfo)
    assert info.to_json() == printed
    assert list(printed)[-6:] == ["format", "request", "edits", "base", "provenance", "parts"]
    assert "header" not in printed
    assert info.components[1] == Component(["bird"], 1, 1 * 2 * 32 * 8)
    in_memory = efface.inspect(eraser)
    assert in_memory.to_json() == {**printed, "eraser": None, "file_bytes": None}


def test_it_returns_what_the_command_prints_of_a_model(answer, tiny_sd):
    printed = answer("inspect", tiny_sd)
    for subject in (tiny_sd, str(tiny_sd), efface.open_model(tiny_sd)):
        info = efface.inspect(subject)
        assert isinstance(info, ModelInfo)
        assert info.to_json() == printed == answer("inspect", "--model", tiny_sd)


def test_an_eraser_is_certified_for_a_model(answer, tiny_sd, eraser):
    eraser.save("cat.safetensors")
    printed = answer("inspect", "cat.safetensors", "--certify", "--model", tiny_sd, "-o", "one.safetensors")
    info = efface.inspect("cat.safetensors", certify=True, model=tiny_sd, out="two.safetensors")
    assert info.to_json() == printed
    certified = efface.certify(efface.open_model(tiny_sd), eraser)
    for path in ("one.safetensors", "two.safetensors"):
        assert Eraser.load(path).certificate == certified.certificate == printed["certificate"]


def test_an_existing_file_is_compared_only_if_it_has_a_certificate(answer, tiny_sd, eraser):
    eraser.save("cat.safetensors")
    with pytest.raises(BadInput, match="already exists"):
        efface.inspect("cat.safetensors", certify=True, model="no model is opened", out="cat.safetensors")
    command = ("inspect", "cat.safetensors", "--certify", "--model", tiny_sd, "-o", "one.safetensors")
    assert [answer(*command)["existed"] for _ in range(2)] == [False, True]


def test_bad_input_is_refused(tiny_sd, eraser):
    with pytest.raises(BadInput, match="--certify"):
        efface.inspect(tiny_sd, certify=True)
    with pytest.raises(BadInput, match="add --certify"):
        efface.inspect(eraser, out="x.safetensors")
    with pytest.raises(BadInput, match="Unknown model"):
        efface.inspect("no-such-model")
