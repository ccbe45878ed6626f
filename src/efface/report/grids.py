"""Grids of pictures: each tile is one prompt and seed, without an eraser first, then with each eraser."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.generation import Job
from efface.protocols import BASE, Evaluation, Shot
from efface.protocols.base import FORGETTING
from efface.report.pictures import Pair, inlined, pairs, spread
from efface.report.series import Series, erasers_of, series_of
from efface.report.verdict import AXES
from efface.report.words import counted

#: Pictures that a grid of forgotten concepts, and of anything else, has room for; and tiles.
FORGET_ROOM, ROOM, MOST_TILES, FEWEST_TILES = 36, 16, 12, 4

TITLES = {
    "indirect": "Asked for in other words",
    "adversarial": "Asked for by prompts that try to bring it back",
    "adjacent": "Near neighbours, which should stay",
    "retain": "The rest, which should stay",
}
_FORGETS = tuple(names[0] for names in AXES)


@dataclass(frozen=True)
class Picture:
    """An image and what the judge says of it.

    Attributes:
        of: Who made it.
        source: The picture as a data address; None where there is none.
        seen: What the judge sees.
        state: "failed" where that is not what it should be, "without" where there is no verdict, else empty.
        alt: What is in it, for those who do not see it.
    """

    of: Series
    source: str | None
    seen: str
    state: str
    alt: str


@dataclass(frozen=True)
class Tile:
    """Pictures of one prompt and seed."""

    prompt: str
    detail: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Group:
    """Tiles under a title."""

    title: str
    note: str
    tiles: Sequence[Tile]

    @property
    def pictured(self) -> bool:
        """Whether any picture was kept."""
        return any(picture.source for tile in self.tiles for picture in tile.pictures)

    @property
    def columns(self) -> int:
        """Pictures in the widest tile."""
        return max((len(tile.pictures) for tile in self.tiles), default=1)


@dataclass(frozen=True)
class _Row:
    """The pairs of one prompt and seed, by eraser."""

    prompt: str
    pairs: dict[str, Pair]


def groups(evaluation: Evaluation) -> Iterator[Group]:
    """One grid for each erased concept, then one for each other metric."""
    series, asked = series_of(evaluation), _asked(evaluation)
    for metric, concept in asked:
        rows = _rows(evaluation, metric, concept)
        if not rows:
            continue
        # Tiles that show all of the erasers: erasers of different requests share only some prompts.
        most = max(len(row.pairs) for row in rows)
        rows = [row for row in rows if len(row.pairs) == most]
        shown = spread(rows, _room(metric, 1 + most))
        asks = "Prompted for" if evaluation.judge.recall else "Where the judge looks for"
        title = f"{asks} “{concept}”" if metric in _FORGETS else TITLES.get(metric, metric)
        note = _shown(len(shown), len(rows), "spread over the prompts")
        group = Group(title, note, [_tile(row, series) for row in shown])
        if group.pictured:
            yield group


def picture(of: Series, shot: Shot, failed: bool = False) -> Picture:
    """One image of a tile."""
    state = "without" if shot.found is None else "failed" if failed else ""
    seen = _seen(shot)
    alt = f"{of.title}: “{shot.probe.job.prompt}”; the judge sees: {seen}"
    return Picture(of, inlined(shot.path), seen, state, alt)


def _shown(shown: int, there: int, how: str) -> str:
    """How many prompts of how many a grid shows, and which."""
    return f"all {counted(there, 'image')}" if shown == there else f"{shown} of {counted(there, 'image')}, {how}"


def _room(metric: str, pictures: int) -> int:
    """How many tiles of so many pictures: a number that fills rows of two and four."""
    tiles = (FORGET_ROOM if metric in _FORGETS else ROOM) // pictures
    return min(MOST_TILES, max(FEWEST_TILES, tiles - tiles % FEWEST_TILES))


def _asked(evaluation: Evaluation) -> list[tuple[str, str | None]]:
    """Metrics that have pictures, those of erased concepts first, concept by concept."""
    found: dict[tuple[str, str | None], None] = {}
    for result in erasers_of(evaluation).values():
        for shot in result.shots:
            metric = shot.probe.metric
            if not shot.probe.further:
                found[metric, shot.probe.concept if metric in _FORGETS else None] = None
    known = (*_FORGETS, *TITLES)
    order = {metric: place for place, metric in enumerate(known)}
    return sorted(found, key=lambda key: order.get(key[0], len(order) - (key[0] in FORGETTING)))


def _rows(evaluation: Evaluation, metric: str, concept: str | None) -> list[_Row]:
    rows: dict[Job, _Row] = {}
    for name, result in erasers_of(evaluation).items():
        for pair in pairs(evaluation.results[BASE], result, metric, concept):
            row = rows.setdefault(pair.after.probe.job, _Row(pair.prompt, {}))
            # Of several questions about one picture, one that it fails.
            if name not in row.pairs or pair.failed:
                row.pairs[name] = pair
    return list(rows.values())


def _tile(row: _Row, series: Mapping[str, Series]) -> Tile:
    first = next(iter(row.pairs.values()))
    after = [picture(series[name], pair.after, pair.failed) for name, pair in row.pairs.items()]
    return Tile(row.prompt, f"seed {first.after.probe.job.seed}", [picture(series[BASE], first.before), *after])


def _seen(shot: Shot) -> str:
    if shot.found is None:
        return "no verdict" if shot.error else "undecided"
    if shot.found:
        return shot.probe.concept
    return shot.saw or ("broken" if shot.went == "broken" else "nothing")
