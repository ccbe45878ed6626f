"""SepCE: iterative erasing, with the effect that its documentation states."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command_line import Efface
from efface import BadInput, Eraser, WeightEdit, open_model
from efface.protocols.events import read_events

QUICK = ("-s", "iter_break=8", "-s", "images=4", "-s", "sampling_steps=2", "-s", "lr=1.0")
SEPCE = ("--method", "sepce", "-s", "scale_factor=0.01", *QUICK)


def changes_of(eraser: Eraser, model: Path, concept: str) -> list[Tensor]:
    """The change of the keys and values of a concept's tokens, for each map."""
    (tokens,) = open_model(model).embed([concept]).tokens
    changes: list[Tensor] = []
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        tensors = edit.tensors()
        changes.append((tensors["delta"] if "delta" in tensors else tensors["up"] @ tensors["down"]) @ tokens.T)
    return changes


def size(changes: list[Tensor]) -> float:
    return float(torch.stack([change.square().sum() for change in changes]).sum().sqrt())


def test_s3_a_later_eraser_protects_the_concepts_of_earlier_ones(efface: Efface, tiny_sd: Path):
    erase = ("erase", "--model", tiny_sd, *SEPCE)
    assert efface(*erase, "cat", "-o", "cat.safetensors").code == 0
    after = efface(*erase, "house", "--after", "cat.safetensors", "-o", "both.safetensors")
    assert (after.code, "do not protect" in after.err) == (0, False)
    both, cat = Eraser.load("both.safetensors"), Eraser.load("cat.safetensors")
    assert both.concepts == ("cat", "house")
    house = both.parts[0]
    effect = size(changes_of(house, tiny_sd, "house"))
    assert effect > 0
    for name in ("cat", ""):
        assert size(changes_of(house, tiny_sd, name)) <= 1e-4 * effect
    assert size(changes_of(cat, tiny_sd, "house")) > 1e-3 * size(changes_of(cat, tiny_sd, "cat"))
    # Each concept can be restored, bit for bit, without a warning.
    for name, rest in (("cat", house), ("house", cat)):
        restored = efface("compose", "both.safetensors", "--without", name, "-o", f"without-{name}.safetensors")
        assert (restored.code, "which is restored" in restored.err) == (0, False)
        assert Eraser.load(f"without-{name}.safetensors").hash == rest.hash


def test_s3_erasers_that_do_not_protect_each_other_print_the_leak(efface: Efface, tiny_sd: Path):
    erase = ("erase", "--model", tiny_sd, *SEPCE)
    for name, options in (("cat", ()), ("dog", ("--preserve", "cat")), ("house", ("--preserve", "cat"))):
        assert efface(*erase, name, *options, "-o", f"{name}.safetensors").code == 0
    ended = efface("compose", "cat.safetensors", "dog.safetensors", "-o", "two.safetensors")
    assert ended.code == 0
    leaks = {pair[:2]: float(pair[2]) / 100 for pair in re.findall(r"'(\w+)' on '(\w+)' ([\d.]+)%", ended.err)}
    cat, dog = (Eraser.load(f"{name}.safetensors") for name in ("cat", "dog"))
    expected = size(changes_of(cat, tiny_sd, "dog")) / size(changes_of(cat, tiny_sd, "cat"))
    assert leaks.keys() == {("cat", "dog"), ("dog", "cat")}
    assert abs(leaks["cat", "dog"] - expected) < 1e-3
    assert expected > 0.01
    assert leaks["dog", "cat"] == 0
    assert size(changes_of(dog, tiny_sd, "cat")) <= 1e-4 * size(changes_of(dog, tiny_sd, "dog"))
    ended = efface("compose", "two.safetensors", "house.safetensors", "-o", "three.safetensors")
    assert len(re.findall(r"'(\w+)' on '(\w+)' ([\d.]+)%", ended.err)) == 6
    assert efface("compose", "two.safetensors", "--without", "cat", "-o", "one.safetensors").err.count("warning") == 0


def test_s3_erasers_that_protect_each_other_are_composed_in_silence(efface: Efface, tiny_sd: Path):
    erase = ("erase", "--model", tiny_sd, *SEPCE)
    for name, other in (("cat", "dog"), ("dog", "cat")):
        assert efface(*erase, name, "--preserve", other, "-o", f"{name}.safetensors").code == 0
    ended = efface("compose", "cat.safetensors", "dog.safetensors", "-o", "two.safetensors")
    assert "do not protect" not in ended.err


def test_s3_the_effect_of_each_event_over_time(efface: Efface, refused: Callable[..., str]):
    """Erase a church, erase a guitar, restore the church; on the embedded model, with its judge."""
    assert efface("erase", "church", "-o", "church.safetensors").code == 0
    assert efface("erase", "guitar", "--after", "church.safetensors", "-o", "both.safetensors").code == 0
    Path("events.txt").write_text("erase church\nerase guitar\nrestore church\n")
    command = ("evaluate", "both.safetensors", "--protocol", "iterative", "-n", 3, "-s", "others=fish", "--steps", 8)
    answer = efface(*command, "-s", "events=events.txt", "-o", "report", "--json").json()
    assert list(answer["erasers"]) == ["base", "both 1", "both 2", "both 3"]

    def over_time(concept: str) -> list[float]:
        return [result["metrics"][f"accuracy_{concept}"]["value"] for result in answer["erasers"].values()]

    assert over_time("church") == [1, 0, 0, 1]
    assert over_time("guitar") == [1, 1, 0, 0]
    assert over_time("fish") == [1, 1, 1, 1]
    assert {"distance_church", "kid_church"} <= answer["erasers"]["both 1"]["metrics"].keys()
    assert 'id="over-time"' in Path("report/report.html").read_text(encoding="utf-8")
    assert "is not erased" in refused(*command, "-s", "events=restore church", "-o", "other")
    Path("request.yaml").write_text("concepts: [church]\n")
    assert "leave --request out" in refused(*command, "--request", "request.yaml", "-o", "other")


@pytest.mark.parametrize(
    ("events", "reason"),
    [("gone.txt", "Cannot read events"), ("empty.txt", "has no events"), ("erase cat; erase", "erase")],
)
def test_s3_events_that_cannot_be_read(efface: Efface, events: str, reason: str):
    Path("empty.txt").touch()
    with pytest.raises(BadInput, match=reason):
        read_events(events)
