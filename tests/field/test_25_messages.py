"""Messages name what to change, and never repeat the values of foreign files."""

from pathlib import Path

import pytest

import efface
from efface.errors import BadFile, BadRequest
from efface.request.record import Request

SECRET = "hf_SECRETSECRETSECRET"
FOREIGN = {
    "another tool's": f"model: {{target: ldm}}\nhf_token: {SECRET}\nparams: [{SECRET}]\n",
    "concepts as a mapping": f"concepts: {{cat: {{token: {SECRET}}}}}\n",
    "an unknown key": f"concepts: [cat]\nhf_token: {SECRET}\n",
    "an option": f"concepts: [cat]\noptions: {{lamb: {{token: {SECRET}}}}}\n",
    "a list of options": f"concepts: [cat]\noptions: [{SECRET}]\n",
    "a preserved prompt": f"concepts: [cat]\npreserve: [{{token: {SECRET}}}]\n",
    "a concept": f"concepts: [{{name: cat, adjacent: {{token: {SECRET}}}}}]\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_named_in_a_short_line_without_its_values(content, tmp_path):
    (tmp_path / "f.yaml").write_text(content)
    with pytest.raises(BadRequest) as caught:
        Request.from_yaml(tmp_path / "f.yaml")
    message = str(caught.value)
    assert SECRET not in message
    assert len(message) < 200
    assert "nput should" not in message
    assert "ield required" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lamb": -1}, "'lamb' is -1; it must be 0 or more."),
        ({"lamb": "nan"}, "'lamb' is 'nan'; it must be a finite number."),
        ({"erase_scale": 0}, "'erase_scale' is 0; it must be above 0."),
        ({"variant": "zz"}, "'variant' is 'zz'; it must be 'token' or 'window'."),
        ({"expand_prompts": "perhaps"}, "'expand_prompts' is 'perhaps'; it must be true or false."),
        ({"seed": 1.5}, "'seed' is 1.5; it must be a whole number."),
        ({"variant": "x" * 500}, f"'variant' is '{'x' * 60}...'; it must be 'token' or 'window'."),
    ],
)
def test_settings_are_explained_in_words(options, message):
    from efface.methods import METHODS

    with pytest.raises(BadRequest) as caught:
        METHODS.get("uce").config.model_validate(options)
    assert str(caught.value) == message


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/further"])
def test_a_file_in_the_place_of_a_folder_is_named(place, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match=r"a file has the name of a folder|it is a file"):
        efface.generate("a cat", steps=1, folder=tmp_path / place)
    with pytest.raises(BadFile, match=r"a file has the name of a folder|it is a file|does not exist"):
        Request.make(["cat"]).to_yaml(tmp_path / place / "r.yaml")


def test_a_caller_of_python_reads_how_to_replace_a_file(tmp_path):
    eraser = efface.erase("emoji", "cat")
    eraser.save(tmp_path / "cat.safetensors")
    with pytest.raises(BadFile, match=r"pass --force \(in Python, force=True\)"):
        eraser.save(tmp_path / "cat.safetensors")
