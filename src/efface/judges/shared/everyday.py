"""Everyday names that compete with a question, for judges that choose among texts.

Without a rival, a choice between "a cat" and "something else" is nearly always the cat, whatever the image shows. In
the closed world of the embedded model, the rivals are its other objects or styles. Elsewhere they are the names of one
level below, so that images of one are rarely images of another; a name that means the same as the question, a part of
it or more than it is left out. Styles and media compete with one another only: a painting of a house shows both.
"""

from __future__ import annotations

import re

from efface.models.builtin import World
from efface.request.names import name_key, plain_words

#: Kinds of things: names, each with other words for it; and words for all of the kind.
_THINGS: tuple[tuple[str, str], ...] = (
    (
        "animal pet mammal creature wildlife beast",
        "cat:kitten,kitty,tabby dog:puppy,hound,golden-retriever,poodle horse:pony,foal cow:cattle,bull sheep:lamb "
        "elephant bear:grizzly,polar-bear,panda tiger:big-cat lion:big-cat monkey:ape,gorilla rabbit:bunny,hare "
        "mouse:rat bird:parrot,sparrow,owl,eagle fish:goldfish,shark,trout,salmon "
        "snake:reptile frog insect:bee,butterfly,beetle",
    ),
    (
        "vehicle transport",
        "car:automobile,sedan,taxi truck:lorry bus:coach bicycle:bike motorcycle:motorbike train:locomotive "
        "airplane:plane,aircraft,jet boat:ship,sailboat,yacht",
    ),
    (
        "food meal dish",
        "pizza hamburger:burger cake:dessert bread:bagel,toast apple:fruit banana:fruit salad:vegetables",
    ),
    ("plant nature", "tree:oak,palm-tree flower:rose,sunflower,tulip grass:lawn,meadow"),
    ("building architecture", "house:home,cottage church:cathedral,chapel castle:palace bridge skyscraper:tower"),
    (
        "object thing tool furniture instrument toy",
        "chair:armchair,stool table:desk bed lamp:light clock:watch book bottle:vase cup:mug,glass phone:smartphone "
        "computer:laptop guitar ball:football,golf-ball umbrella:parasol key knife:weapon gun:weapon,pistol,rifle "
        "shoe:boot,sneaker hat:cap",
    ),
    (
        "person people human face portrait body nude nudity naked nsfw sexual",
        "man:boy,gentleman woman:girl,lady child:baby,boy,girl,kid",
    ),
    (
        "landscape scenery nature outdoors place",
        "mountain:hill beach:sea,ocean,coast forest:woods,trees street:city,road room:indoors",
    ),
)
_MEDIA = (
    "photograph:photo,picture oil-painting:painting,impressionism watercolor:painting pencil-drawing:drawing,sketch "
    "cartoon:comic,anime 3d-render:3d,cgi pixel-art:8-bit sculpture:statue"
)
_ABOUT_STYLE = re.compile(r"\b(style|painting|drawing|sketch|art|artwork|photo|photograph|render|cartoon|anime|by)\b")


def rivals_of(question: str, world: World | None = None) -> tuple[str, ...]:
    """The names that compete with a question.

    Args:
        question: The concept in question.
        world: The closed world in which the judge was trained.
    """
    return _rivals_in(world, question) if world else _everyday_rivals(question)


def _rivals_in(world: World, question: str) -> tuple[str, ...]:
    keys = {name_key(question), name_key(plain_words(question).removesuffix(" style"))}
    styles = {style.name: {name_key(word) for word in (style.name, *style.words)} for style in world.styles}
    if any(keys & words for words in styles.values()):
        return tuple(name for name, words in styles.items() if not keys & words)
    objects = {thing.name: {name_key(word) for word in (*thing.words, thing.theme)} for thing in world.objects}
    return tuple(name for name, words in objects.items() if not keys & words)


def _everyday_rivals(question: str) -> tuple[str, ...]:
    words = {_singular(word) for word in plain_words(question).split()}
    if _ABOUT_STYLE.search(plain_words(question)):
        return tuple(name for name, others in _entries(_MEDIA) if not words & others)
    return tuple(
        name
        for kind, entries in _THINGS
        if not words & set(kind.split())
        for name, others in _entries(entries)
        if not words & others
    )


def _entries(text: str) -> list[tuple[str, set[str]]]:
    """Names, and for each the words of its own and other names."""
    entries: list[tuple[str, set[str]]] = []
    for entry in text.split():
        name, _, others = entry.partition(":")
        words = {word for one in (name, *others.split(",")) for word in one.split("-")}
        entries.append((name.replace("-", " "), words))
    return entries


def _singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word
