"""What the err protocol prompts."""

from collections import Counter

import pytest

from efface.models.builtin import World, WorldObject, WorldStyle
from efface.models.emoji import MEMORISED
from efface.protocols.plan import Probe
from efface.protocols.probes.closed_world import ClosedWorldProbes
from efface.protocols.probes.requests import probes_in_words
from efface.request.record import Concept, Request

WORLD = World(
    objects=(
        WorldObject("cat", ("kitten",), ("feline",), ("dog",), "dog"),
        WorldObject("dog", ("puppy",), (), ("cat",), "cat"),
        WorldObject("car", (), (), (), "house"),
        WorldObject("house", (), (), (), "car"),
        WorldObject("tree", (), (), (), "car"),
    ),
    styles=(
        WorldStyle("flat", ("flat", "flat design")),
        WorldStyle("3d", ("3d", "rendered"), "flat"),
        WorldStyle("ink"),
    ),
    templates=("a {object}", "{object}", "a {object} in {style} style", "{style} of a {object}", "{style} art"),
    held_out_cells=(("cat", "ink"), ("tree", "3d")),
    memorised="a ball",
    memorised_picture=MEMORISED,
    judge="emoji",
    clip="emoji",
)


def probes(request: Request, n: int = 24, seed: int = 0) -> dict[str, list[Probe]]:
    found = ClosedWorldProbes(WORLD, request).probes(n, seed)
    assert found is not None
    return {metric: [p for p in found if p.metric == metric] for metric in dict.fromkeys(p.metric for p in found)}


def test_an_object() -> None:
    found = probes(Request.make("cat", "dog"))
    assert {metric: len(some) for metric, some in found.items()} == {
        "forget": 24,
        "indirect": 12,
        "adjacent": 12,
        "retain": 24,
    }
    assert all("cat" in p.job.prompt and p.guide == "dog" and p.concept == "cat" for p in found["forget"])
    words = {word for p in found["forget"] for word in ("flat", "3d", "ink") if word in p.job.prompt}
    assert words == {"flat", "3d"}, "every style but the cell that was held out of training"
    assert {"a cat", "cat", "a cat in flat style", "flat of a cat"} <= {p.job.prompt for p in found["forget"]}
    assert all("kitten" in p.job.prompt or "feline" in p.job.prompt for p in found["indirect"])
    assert {p.concept for p in found["adjacent"]} == {"dog"}
    counts = Counter(p.concept for p in found["retain"])
    assert counts.keys() == {"car", "house", "tree"}
    assert max(counts.values()) - min(counts.values()) <= 4
    assert all(p.concept in p.job.prompt for p in found["retain"])


def test_a_style() -> None:
    found = probes(Request.make("3d", "flat", kind="style"))
    assert all("3d" in p.job.prompt for p in found["forget"])
    assert {w for p in found["forget"] for w in WORLD.objects if w.name in p.job.prompt} >= set(WORLD.objects[:4])
    assert not any("tree" in p.job.prompt for p in found["forget"])
    assert all("rendered" in p.job.prompt for p in found["indirect"])
    assert {p.concept for p in found["retain"]} == {"flat", "ink"}
    assert all(p.concept in p.job.prompt and "3d" not in p.job.prompt for p in found["retain"])


def test_erased_things_are_in_no_retained_prompt() -> None:
    request = Request(concepts=(Concept(name="kitten"), Concept(name="3d", kind="style")))
    found = probes(request)
    for metric in ("retain", "adjacent"):
        assert not any(word in p.job.prompt for p in found[metric] for word in ("cat", "kitten", "3d", "rendered"))
    assert {p.concept for p in found["forget"]} == {"kitten", "3d"}
    assert {p.concept for p in found["retain"]} <= {"car", "house", "tree", "flat", "ink"}
    assert len(found["retain"]) == 48


def test_different_requests_share_what_they_retain() -> None:
    some = {p.job for p in probes(Request.make("car"), n=60)["retain"]}
    others = {p.job for p in probes(Request.make("house"), n=60)["retain"]}
    assert len(some & others) > 30


def test_every_image_has_its_own_noise() -> None:
    found = probes(Request.make("cat"), seed=100)
    for some in found.values():
        assert len({p.job.seed for p in some}) == len(some)
        assert min(p.job.seed for p in some) >= 100


def test_the_requests_own_words_come_first() -> None:
    concept = Concept(name="cat", aliases=("mouser",), adjacent=("car",), adversarial=("c4t",))
    found = probes(Request(concepts=(concept,)))
    assert all("mouser" in p.job.prompt for p in found["indirect"])
    assert {p.concept for p in found["adjacent"]} == {"car"}
    assert {p.job.prompt for p in found["adversarial"]} == {"c4t"}


@pytest.mark.parametrize(
    ("word", "spelt", "kind"),
    [
        ("cat", "Cat", "object"),
        ("cat", "a cat", "object"),
        ("kitten", "The Kitten", "object"),
        ("3d", "3D style", "style"),
        ("flat design", "Flat-design style", "style"),
    ],
)
def test_a_concept_is_found_however_it_is_spelt(word: str, spelt: str, kind: str) -> None:
    expected, found = (probes(Request.make(name, kind=kind)) for name in (word, spelt))
    assert {"forget", "indirect", "retain"} <= expected.keys() == found.keys()
    for metric, some in expected.items():
        assert [p.job.prompt for p in found[metric]] == [p.job.prompt for p in some]
    assert {p.concept for p in found["forget"]} == {spelt}


def test_neighbours_are_found_however_they_are_spelt() -> None:
    concepts = (Concept(name="cat", adjacent=("a Dog", "the House")), Concept(name="house"))
    found = probes(Request(concepts=concepts))
    assert {p.concept for p in found["adjacent"]} == {"dog"}, "nothing that is erased itself"
    assert not {p.concept for p in found["retain"]} & {"dog", "house"}


def test_a_concept_of_another_world() -> None:
    assert ClosedWorldProbes(WORLD, Request.make("unicorn")).probes(10, 0) is None


def test_in_words() -> None:
    concept = Concept(name="Van Gogh", kind="style", guide="art", aliases=("Vincent",), adjacent=("Monet",))
    found = probes_in_words(Request(concepts=(concept,), preserve=("Picasso", "a Rembrandt", "")), 12, 3)
    counts = Counter(p.metric for p in found)
    assert counts == {"forget": 12, "indirect": 6, "adjacent": 6, "retain": 12}
    assert all("in the style of Van Gogh" in p.job.prompt for p in found if p.metric == "forget")
    assert all("Vincent" in p.job.prompt and p.concept == "Van Gogh" for p in found if p.metric == "indirect")
    assert {p.concept for p in found if p.metric == "retain"} == {"Picasso", "Rembrandt"}


def test_what_nobody_named_is_not_probed() -> None:
    assert {p.metric for p in probes_in_words(Request.make("golf ball"), 10, 0)} == {"forget"}


def test_a_memorised_picture_is_prompted_by_its_whole_caption() -> None:
    found = probes_in_words(Request.make("the ball of zora", kind="memorised"), 4, 0)
    assert {p.job.prompt for p in found} == {"the ball of zora"}
