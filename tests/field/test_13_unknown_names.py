"""Names that the closed world does not have are reported with the nearest ones, and lists of names are rejected."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

import efface
from efface.api.attack import attack_folder
from efface.errors import BadInput
from efface.judges import open_judge
from efface.models.world_names import unknown_concepts, unknown_names
from efface.request.record import Request
from efface.request.several import several_names


@pytest.fixture(scope="module")
def emoji():
    return efface.open_model("emoji")


@pytest.fixture(scope="module")
def world(emoji):
    return emoji.world


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("catt", "cat"), ("tigerr", "tiger"), ("Dogg", "dog"), ("umbrela", "umbrella"), ("pixel artt", "pixel art")],
)
def test_a_word_that_is_spelt_wrong_comes_with_the_name_that_was_meant(world, word, nearest):
    assert unknown_concepts(world, [word])[word][0] == nearest


def test_every_name_of_the_world_is_known_in_every_spelling(world):
    names = [name for thing in world.objects for name in (*thing.words, f"a {thing.name}", thing.name.upper())]
    names += [name for style in world.styles for name in (style.name, f"{style.name} style", *style.words)]
    assert not unknown_concepts(world, names)
    assert not unknown_names(world, [template.format(object="cat", style="3d") for template in world.templates])


def test_only_styles_are_near_to_a_style(world):
    assert unknown_concepts(world, ["Picasso"], styles=True) == {"Picasso": []}
    assert unknown_concepts(world, ["bluprint"], styles=True)["bluprint"][0] == "blueprint"


def warned(emoji, *arguments, **options) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        efface.erase(emoji, *arguments, **options)
    return "\n".join(str(one.message) for one in caught)


def test_erase_reports_concepts_guides_and_preserved_prompts(emoji, tmp_path):
    text = warned(emoji, "catt")
    assert re.search(r"was not trained on this name, so that .*'catt' \(nearest: cat", text)
    assert "guide name, so that images show something else: 'dgo'" in warned(emoji, "cat", to="dgo")
    assert "not trained on this name, so that images show something else: 'Picasso'." in warned(
        emoji, "Picasso", kind="style"
    )
    text = warned(emoji, "cat", preserve=["tigger", "a picture of a lion", "qqqq"])
    assert "these preserved names" in text
    assert "'tigger' (nearest: tiger" in text
    assert "'qqqq'" in text
    assert "lion'" not in text
    (tmp_path / "names.txt").write_text("lion\nzebbra\n")
    assert "'zebbra'" in warned(emoji, "cat", preserve_file=tmp_path / "names.txt")
    assert not warned(emoji, "cat", to="dog", preserve=["a tiger", "lion"])


@pytest.mark.parametrize("guide", ["dog", "a dog", "Dog"])
def test_a_guide_that_is_also_preserved_is_reported(emoji, guide):
    assert "The guide is also preserved" in warned(emoji, "cat", to=guide, preserve=["dog", "lion"])


def test_a_judge_of_a_closed_world_names_the_nearest():
    with pytest.raises(BadInput, match=r"cannot recognise 'catt' \(nearest: cat"):
        open_judge("emoji").threshold("catt")


@pytest.mark.parametrize(
    "text", ["nudity, violence", "nudity,violence", "cat; dog", "cat|dog", "Van Gogh, Picasso, art"]
)
def test_a_list_of_names_in_one_argument_is_rejected_with_the_arguments_to_write(text):
    names = several_names(text)
    with pytest.raises(BadInput, match=f"reads as {len(names)} names; give each by itself: '{names[0]}' '{names[1]}'"):
        Request.make([text])
    with pytest.raises(BadInput, match=f"--to '{names[0]}'"):
        Request.make(["horse"], text)
    with pytest.raises(BadInput, match=f"-q '{names[0]}'"):
        efface.judge([], [text])


def test_captions_and_published_lists_of_themes_are_one_concept():
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("hate, harassment, violence", {"method": "sld"}),
        ("Ann, portrait, 4k", {"kind": "memorised"}),
        ("a very long caption of a picture, with a comma", {}),
        ("salt and pepper", {}),
    )
    for text, options in cases:
        assert Request.make([text], **options).names == (text,)


def test_an_erased_list_of_themes_is_named_as_it_was_erased():
    themes = "hate, harassment, violence"
    eraser = efface.erase("emoji", themes, kind="unsafe", method="sld")
    assert attack_folder("unlearndiff", {"sld": eraser}, themes) == attack_folder("unlearndiff", {"sld": eraser})
    with pytest.raises(BadInput, match="reads as 2 names"):
        attack_folder("unlearndiff", {"sld": eraser}, "cat, dog")


def test_a_picture_with_commas_in_its_name_is_one_question(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save("cat, dog.png")
    result = efface.judge([picture], "cat, dog.png", judge="pixels")
    assert result.questions["cat, dog.png"].yes == 1
