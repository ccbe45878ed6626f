"""Grids of pictures: before and after side by side, and the failures, worst first.

Each tile is one prompt and seed, without an eraser first, then with each eraser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.generation import Job
from efface.protocols import BASE, Evaluation, JudgedImage, Result
from efface.protocols.base import metric_named
from efface.protocols.plan import FORGETTING
from efface.report.headline import forgetting_metrics
from efface.report.pictures import Pair, data_url, pairs_of, spread
from efface.report.words import Series, counted, erasers_of, series_of

#: Number of pictures in a grid of a forgotten concept, and of anything else; and of tiles.
FORGET_ROOM, ROOM, MOST_TILES, FEWEST_TILES = 36, 16, 12, 4
#: Number of failures that are shown.
SHOWN = 12

#: Titles of the grids of probes, by their metric.
TITLES = {
    "indirect": "Asked for in other words",
    "adversarial": "Asked for by prompts that try to bring it back",
    "adjacent": "Near neighbours, which should stay",
    "retain": "The rest, which should stay",
}


@dataclass(frozen=True)
class TilePicture:
    """An image and the judge's answer.

    Attributes:
        of: The model.
        source: The picture as a data URL; None if it is not stored.
        seen: What the judge sees.
        state: "failed" if that is not what it should be, "without" without a verdict, else empty.
        alt: The text for readers who do not see the picture.
    """

    of: Series
    source: str | None
    seen: str
    state: str
    alt: str


@dataclass(frozen=True)
class Tile:
    """Pictures of one prompt and seed.

    Attributes:
        prompt: The prompt.
        detail: The seed and, for a failure, its score and metric.
        pictures: The unedited model's picture first, then those of erasers.
    """

    prompt: str
    detail: str
    pictures: Sequence[TilePicture]


@dataclass(frozen=True)
class TileGroup:
    """Tiles under a title.

    Attributes:
        title: The title.
        note: How many images there are, and which are shown.
        tiles: The tiles.
    """

    title: str
    note: str
    tiles: Sequence[Tile]

    @property
    def pictured(self) -> bool:
        """Whether any picture is stored."""
        return any(picture.source for tile in self.tiles for picture in tile.pictures)

    @property
    def columns(self) -> int:
        """Number of pictures in the widest tile."""
        return max((len(tile.pictures) for tile in self.tiles), default=1)


@dataclass(frozen=True)
class Failures:
    """The failures of one eraser.

    Attributes:
        of: The eraser.
        through: Images that show an erased concept, highest scores first.
        lost: Images that lost what the unedited model shows there, lowest scores first.
    """

    of: Series
    through: TileGroup
    lost: TileGroup


@dataclass(frozen=True)
class Unanswered:
    """An image without a verdict.

    Attributes:
        of: The model.
        prompt: The prompt.
        seed: The seed.
        error: The error; None if the judge is undecided.
    """

    of: Series
    prompt: str
    seed: int
    error: str | None

    @property
    def undecided(self) -> bool:
        """Whether the judge answers neither yes nor no."""
        return self.error is None


@dataclass(frozen=True)
class _Row:
    """The pairs of one prompt and seed, by eraser."""

    prompt: str
    pairs: dict[str, Pair]


def groups(evaluation: Evaluation) -> Iterator[TileGroup]:
    """One grid for each erased concept, then one for each other metric."""
    series, forgets = series_of(evaluation), forgetting_metrics(evaluation)
    for metric, concept in _grids(evaluation, forgets):
        rows = _rows(evaluation, metric, concept)
        if not rows:
            continue
        # Tiles that show all of the erasers: erasers of different requests share only some prompts.
        most = max(len(row.pairs) for row in rows)
        rows = [row for row in rows if len(row.pairs) == most]
        shown = spread(rows, _room(FORGET_ROOM if metric in forgets else ROOM, 1 + most))
        asks = "Prompted for" if evaluation.judge.recall else "Where the judge looks for"
        title = f"{asks} “{concept}”" if metric in forgets else title_of(metric, evaluation)
        note = f"all {counted(len(rows), 'image')}"
        if len(shown) < len(rows):
            note = f"{len(shown)} of {counted(len(rows), 'image')}, spread over the prompts"
        group = TileGroup(title, note, [_tile(row, series) for row in shown])
        if group.pictured:
            yield group


def failures(evaluation: Evaluation) -> Iterator[Failures]:
    """The failures of every eraser."""
    series, base = series_of(evaluation), evaluation.erasers[BASE]
    for name, result in erasers_of(evaluation).items():
        answered = [pair for pair in _all_pairs(base, result) if pair.after.shows is not None]
        erased = [pair for pair in answered if not pair.after.probe.wanted]
        rest = [pair for pair in answered if pair.after.probe.wanted and pair.before.shows]
        through = sorted((pair for pair in erased if pair.failed), key=lambda pair: -pair.after.score)
        lost = sorted((pair for pair in rest if pair.failed), key=lambda pair: pair.after.score)
        both = (series[BASE], series[name])
        yield Failures(
            series[name],
            _failed("The erased concept came through", through, len(erased), "the highest scores first", both),
            _failed("Lost, though it should have stayed", lost, len(rest), "the lowest scores first", both),
        )


def unanswered(evaluation: Evaluation) -> list[Unanswered]:
    """Images that count in no rate or score, with the reason."""
    series = series_of(evaluation)
    rows = (
        Unanswered(series[name], job.prompt, job.seed, error)
        for name, result in evaluation.erasers.items()
        for job, error in (
            *((image.probe.job, image.error) for image in result.images if image.shows is None),
            *((image.job, image.error) for image in result.failed_images),
        )
    )
    return list(dict.fromkeys(rows))  # an image once, however many questions are asked about it


def title_of(metric: str, evaluation: Evaluation) -> str:
    """The title of the pictures of one metric's probes: a common one, else the declared meaning, else the name."""
    meaning = metric_named(evaluation.metrics, metric).meaning
    return TITLES.get(metric) or (meaning[:1].upper() + meaning[1:]) or metric


def _grids(evaluation: Evaluation, forgets: Sequence[str]) -> list[tuple[str, str | None]]:
    """Metrics that have pictures, those of erased concepts first, concept by concept."""
    grids: dict[tuple[str, str | None], None] = {}
    for result in erasers_of(evaluation).values():
        for image in result.images:
            metric = image.probe.metric
            if not image.probe.further:
                grids[metric, image.probe.concept if metric in forgets else None] = None
    order = {metric: place for place, metric in enumerate((*forgets, *TITLES))}
    return sorted(grids, key=lambda key: order.get(key[0], len(order) - (key[0] in FORGETTING)))


def _rows(evaluation: Evaluation, metric: str, concept: str | None) -> list[_Row]:
    rows: dict[Job, _Row] = {}
    for name, result in erasers_of(evaluation).items():
        for pair in pairs_of(evaluation.erasers[BASE], result, metric, concept):
            row = rows.setdefault(pair.after.probe.job, _Row(pair.prompt, {}))
            # Of several questions about one picture, one that it fails.
            if name not in row.pairs or pair.failed:
                row.pairs[name] = pair
    return list(rows.values())


def _room(room: int, pictures: int) -> int:
    """The number of tiles with so many pictures each: a number that fills rows of two and four."""
    tiles = room // pictures
    return min(MOST_TILES, max(FEWEST_TILES, tiles - tiles % FEWEST_TILES))


def _tile(row: _Row, series: Mapping[str, Series]) -> Tile:
    first = next(iter(row.pairs.values()))
    after = [_picture(series[name], pair.after, pair.failed) for name, pair in row.pairs.items()]
    return Tile(row.prompt, f"seed {first.after.probe.job.seed}", [_picture(series[BASE], first.before), *after])


def _picture(of: Series, image: JudgedImage, failed: bool = False) -> TilePicture:
    state = "without" if image.shows is None else "failed" if failed else ""
    seen = _seen(image)
    alt = f"{of.title}: “{image.probe.job.prompt}”; the judge sees: {seen}"
    return TilePicture(of, data_url(image.path), seen, state, alt)


def _seen(image: JudgedImage) -> str:
    if image.shows is None:
        return "no verdict" if image.error else "undecided"
    if image.shows:
        return image.probe.concept
    return image.recognised or ("broken" if image.destination == "broken" else "nothing")


def _all_pairs(base: Result, result: Result) -> list[Pair]:
    metrics = dict.fromkeys(image.probe.metric for image in result.images if not image.probe.further)
    return [pair for metric in metrics for pair in pairs_of(base, result, metric)]


def _failed(title: str, failed: Sequence[Pair], total: int, order: str, series: tuple[Series, Series]) -> TileGroup:
    """The failed pairs among `total` pairs, in order."""
    shown = failed[:SHOWN]
    note = f"{len(failed) or 'none'} of {counted(total, 'image')}"
    if len(shown) < len(failed):
        note += f"; {len(shown)} shown, {order}"
    base, of = series
    tiles = [
        Tile(
            pair.after.probe.job.prompt,
            _detail(pair.after),
            [_picture(base, pair.before), _picture(of, pair.after, failed=True)],
        )
        for pair in shown
    ]
    return TileGroup(title, note, tiles)


def _detail(image: JudgedImage) -> str:
    attack = image.probe.attack
    asked = f"{image.probe.metric}{f' by {attack}' if attack else ''}"
    if image.probe.concept not in image.probe.job.prompt:
        asked += f" ({image.probe.concept})"
    return f"seed {image.probe.job.seed} · score {image.score:.2f} · {asked}"
