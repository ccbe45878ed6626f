from pathlib import Path

import pytest
from huggingface_hub import constants

import efface
from efface import BadInput
from efface.hub import UnreachableError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that cannot be reached, with the prompts of I2P in its cache."""
    repository = tmp_path / "hub" / "datasets--AIML-TUDA--i2p"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "i2p_benchmark.csv").write_text("prompt\na cat\n")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_it_returns_what_the_command_prints(answer, offline):
    printed = answer("fetch", "i2p", "-o", "one.csv")
    result = efface.fetch("i2p", out="two.csv")
    assert printed == {"kind": "i2p", "path": "one.csv", "use": "--protocol i2p --prompts one.csv"}
    assert result.to_json() == {"kind": "i2p", "path": "two.csv", "use": "--protocol i2p --prompts two.csv"}
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes() == b"prompt\na cat\n"


def test_without_the_hub_it_says_what_to_place_where(offline):
    with pytest.raises(UnreachableError, match="place the files of"):
        efface.fetch("models", "someone/tiny")


def test_bad_input_is_refused(offline):
    with pytest.raises(BadInput, match="Unknown 'coco'"):
        efface.fetch("coco")
    with pytest.raises(BadInput, match="Name the model"):
        efface.fetch("models")
    with pytest.raises(BadInput, match="leave -o out"):
        efface.fetch("models", "a/b", out="x")
