"""The prompts of a model with a closed world, whose catalogue lists the objects, styles and words.

An object is prompted in every style and plainly, a style on every object, in all templates of the training captions.
Cells that the denoiser was not trained on are left out, since their images do not depend on erasing.

The list of retained concepts depends on the erased ones only by what it leaves out, and probe k has seed `seed + k`:
evaluations of different erasers share most images of the unedited model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice

from efface.generation.jobs import Job
from efface.models.builtin import World
from efface.protocols.plan import Probe
from efface.protocols.probes.requests import adversarial_probes
from efface.protocols.world import grid_of, spellings
from efface.request.names import name_key
from efface.request.record import Concept, Request

_Cell = tuple[str, str, str]  # template, object, style or empty


class ClosedWorldProbes:
    """The probes of a request in a closed world.

    Args:
        world: The model's world.
        request: What was erased.
    """

    def __init__(self, world: World, request: Request) -> None:
        self._objects = {thing.name: thing for thing in world.objects}
        self._styles = {style.name: style for style in world.styles}
        self._plain = [t for t in world.templates if "{object}" in t and "{style}" not in t]
        self._styled = [t for t in world.templates if "{object}" in t and "{style}" in t]
        self._held_out = set(world.held_out_cells)
        self._grid = grid_of(world)
        self._concepts = request.concepts
        self._erased = {self._meaning(concept.name) for concept in request.concepts}

    def probes(self, n: int, seed: int) -> list[Probe] | None:
        """The request's probes; None if one of its concepts is not of this world.

        Args:
            n: Number of images of each concept for `forget` and in all for `retain`; half as many for the others.
            seed: Seed of the first image of each list.
        """
        if None in self._erased:
            return None
        probes = [probe for concept in self._concepts for probe in self._of_concept(concept, n, seed)]
        return probes + self._retained(n, seed)

    def _meaning(self, name: str) -> str | None:
        """The object or style that a word means, in any spelling."""
        meaning = self._grid.meaning(name)
        return meaning and meaning[1]

    def _of_concept(self, concept: Concept, n: int, seed: int) -> list[Probe]:
        name, guide = concept.name, concept.guide
        meaning = self._meaning(name) or name
        # Templates bring articles and "style": the prompt takes the catalogue's word.
        word = next(word for word in self._words(meaning) if name_key(word) in spellings(name))
        aliases = concept.aliases or tuple(other for other in self._words(meaning) if other != word)
        neighbours = [other for other in self._near(concept) if other not in self._erased]
        return [
            *self._by_words("forget", meaning, [word], n, seed, name, guide),
            *self._by_words("indirect", meaning, aliases, n // 2, seed, name, guide),
            *self._adjacent(neighbours, n // 2, seed),
            *adversarial_probes(concept, n // 2, seed),
        ]

    def _words(self, meaning: str) -> tuple[str, ...]:
        """All words for one object or style."""
        if meaning in self._styles:
            return (meaning, *self._styles[meaning].words)
        return (meaning, *self._objects[meaning].synonyms, *self._objects[meaning].held_out)

    def _near(self, concept: Concept) -> tuple[str, ...]:
        """Neighbours: those of the request, by the catalogue's names where it has them, else the catalogue's."""
        thing = self._objects.get(self._meaning(concept.name) or "")
        return tuple(self._meaning(word) or word for word in concept.adjacent) or (thing.near if thing else ())

    def _by_words(
        self, metric: str, meaning: str, words: Sequence[str], n: int, seed: int, concept: str, guide: str | None
    ) -> list[Probe]:
        """n probes of one object or style, by each of the words in turn."""
        cells = islice(self._cells(meaning), n if words else 0)
        probes: list[Probe] = []
        for k, (template, thing, style) in enumerate(cells):
            word = words[k % len(words)]
            named = (thing, word) if meaning in self._styles else (word, style)
            probes.append(_probe(metric, concept, template, *named, seed + k, guide))
        return probes

    def _adjacent(self, neighbours: Sequence[str], n: int, seed: int) -> list[Probe]:
        """n probes that take turns over neighbours, each in its own cells."""
        cells = {name: self._cells(name) for name in neighbours}
        turns = [neighbours[k % len(neighbours)] for k in range(n if neighbours else 0)]
        return [_probe("adjacent", name, *next(cells[name]), seed + k) for k, name in enumerate(turns)]

    def _retained(self, n: int, seed: int) -> list[Probe]:
        """n objects where an object was erased, and n styles where a style was; neighbours have their own metric."""
        near = {word for concept in self._concepts for word in self._near(concept)}
        # The grid is walked in full and unsuitable cells are skipped, so that cell k is the same for every request.
        walk = islice(enumerate(self._walk(list(self._objects), [None, *self._styles])), 100 * n)
        cells = [(k, cell) for k, cell in walk if not {cell[1], cell[2]} & self._erased]
        probes: list[Probe] = []
        for place, names in ((1, self._objects), (2, self._styles)):
            if self._erased & names.keys():
                fit = (entry for entry in cells if entry[1][place] and entry[1][place] not in near)
                probes += [_probe("retain", cell[place], *cell, seed + k) for k, cell in islice(fit, n)]
        return probes

    def _cells(self, meaning: str) -> Iterator[_Cell]:
        """Cells that show one object, in styles that are not erased, or one style, on objects that are not erased."""
        if meaning in self._styles:
            return self._walk([name for name in self._objects if name not in self._erased], [meaning])
        styles = [name for name in self._styles if name not in self._erased]
        return self._walk([meaning], [None, *styles])

    def _walk(self, objects: Sequence[str], styles: Collection[str | None]) -> Iterator[_Cell]:
        """Cells without end; every beginning spreads over objects, styles and templates."""
        looks = list(styles)
        for k in count():
            thing = objects[k % len(objects)]
            look = looks[(k % len(objects) + k // len(objects)) % len(looks)]
            turn = k + k // (len(objects) * len(looks))
            if look is None:
                yield self._plain[turn % len(self._plain)], thing, ""
            elif (thing, look) not in self._held_out:
                yield self._styled[turn % len(self._styled)], thing, look


def _probe(
    metric: str, concept: str, template: str, thing: str, style: str, seed: int, guide: str | None = None
) -> Probe:
    prompt = template.replace("{object}", thing).replace("{style}", style)
    return Probe(metric, concept, Job(prompt, seed, concept=concept), guide)
