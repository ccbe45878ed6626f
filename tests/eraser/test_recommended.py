"""Recommended guides and settings: where they apply, that they are recorded, and that they can be turned off."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import efface
from efface import Eraser, Model, open_model
from efface.eraser.recommended import with_recommended
from efface.methods import METHODS
from efface.models.builtin import Recommended
from efface.models.emoji import EMOJI, catalogue
from efface.request.record import Concept, Request


@pytest.fixture
def emoji(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The embedded model with a recommended setting for objects too."""
    model = open_model("emoji")
    recommended = Recommended(guides=True, settings={"object": {"lamb": 0.25, "erase_scale": 2.0}})
    monkeypatch.setattr(model, "built_in", replace(EMOJI, recommended={"uce": recommended}))
    return model


def sources(eraser: Eraser) -> Mapping[str, Any]:
    return {key: eraser.provenance[key] for key in ("guide_from", "settings_from")}


def test_a_concept_without_a_guide_takes_that_of_the_world_as_if_the_user_gave_it() -> None:
    eraser, given = efface.erase("emoji", "lion"), efface.erase("emoji", "lion", to="cat")
    assert eraser.request == given.request
    assert eraser.hash == given.hash
    assert sources(eraser)["guide_from"] == {"lion": "recommended"}
    assert sources(given)["guide_from"] == {"lion": "user"}
    assert set(sources(eraser)["settings_from"].values()) == {"published"}


def test_the_preset_published_turns_it_off() -> None:
    eraser = efface.erase("emoji", "lion", preset="published")
    assert eraser.request == Request.make("lion")
    assert eraser.hash != efface.erase("emoji", "lion").hash
    assert sources(eraser)["guide_from"] == {"lion": "published"}


def test_settings_apply_to_their_kind_and_the_users_value_wins(emoji: Model) -> None:
    eraser = efface.erase(emoji, "lion", lamb=0.5)
    assert eraser.request.options == {"lamb": 0.5, "erase_scale": 2.0}
    assert {name: eraser.provenance["settings"][name] for name in ("lamb", "erase_scale")} == eraser.request.options
    found = sources(eraser)["settings_from"]
    assert (found["lamb"], found["erase_scale"], found["preserve_scale"]) == ("user", "recommended", "published")
    style = efface.erase(emoji, "pixel art", kind="style")
    assert not style.request.options
    assert style.request.concepts[0].guide == "flat"
    assert not efface.erase(emoji, "lion", preset="published").request.options


def test_the_guide_of_a_synonym_and_of_concepts_erased_together() -> None:
    world = catalogue()
    assert world.guide("King  of the Jungle", "object", ["King of the Jungle"]) == "cat"
    assert world.guide("lion", "object", ["lion", "cat"]) == "tiger"
    assert world.guide("horse", "object", ["horse", "elephant"]) is None
    assert world.guide("bold outline", "style", []) == "flat"
    assert world.guide("lion", "style", []) is None
    assert world.guide("bomb", "unsafe", []) is None
    assert world.guide("zebra", "object", []) is None


def test_other_models_and_methods_have_their_published_defaults(tiny_model: Model) -> None:
    for model, request in (
        (tiny_model, Request.make("cat")),
        (open_model("emoji"), Request.make("zebra")),
        (open_model("emoji"), Request.make("cat", method="sld")),
        (open_model("emoji"), Request.make("cat", method="esd", options={"preset": "2023"})),
        (open_model("emoji"), Request.make("a pet", ["cat", "dog"], goal="debias")),
    ):
        completed, found = with_recommended(model, request)
        assert completed == request
        assert "recommended" not in (*found.guides.values(), *found.settings.values())


def test_several_concepts_some_with_a_guide() -> None:
    request = Request(concepts=(Concept(name="lion", guide="dog"), Concept(name="fish"), Concept(name="zebra")))
    eraser = efface.erase("emoji", request)
    assert [concept.guide for concept in eraser.request.concepts] == ["dog", "dolphin", None]
    expected = {"lion": "user", "fish": "recommended", "zebra": "published"}
    assert sources(eraser)["guide_from"] == expected


def test_restored_and_composed_erasers_retain_the_record(tmp_path: Path) -> None:
    both = efface.erase("emoji", ["lion", "fish"], ["dog", "dolphin"])
    assert both.without("fish").provenance["guide_from"] == {"lion": "user"}
    composed = efface.compose(efface.erase("emoji", "lion"), efface.erase("emoji", "fish", to="cat"))
    assert composed.provenance["guide_from"] == {"lion": "recommended", "fish": "user"}
    composed.save(tmp_path / "both.safetensors")
    assert sources(Eraser.load(tmp_path / "both.safetensors")) == sources(composed)


def test_a_setting_named_preset_of_a_method_is_its_own(tiny_model: Model) -> None:
    request = Request.make("cat", method="sld", options={"preset": "strong"})
    completed, found = with_recommended(tiny_model, request)
    assert completed.options == {"preset": "strong"}
    assert found.settings["preset"] == "user"


def test_what_emoji_recommends_is_valid() -> None:
    for method, recommended in EMOJI.recommended.items():
        for settings in recommended.settings.values():
            METHODS.get(method).config.model_validate(settings)
