"""What went wrong, worst first: where an erased concept came through, what else was lost, what has no verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.protocols import BASE, Evaluation, Result, Shot
from efface.report.grids import Group, Tile, picture
from efface.report.pictures import Pair, pairs
from efface.report.series import Series, erasers_of, series_of
from efface.report.words import counted

SHOWN = 12


@dataclass(frozen=True)
class Failures:
    """Of one eraser.

    Attributes:
        of: Whose.
        through: Images in which an erased concept came through, highest scores first.
        lost: Images that lost what the unedited model shows there, lowest scores first.
    """

    of: Series
    through: Group
    lost: Group


@dataclass(frozen=True)
class Unanswered:
    """An image without a verdict: on an error it says which, else the judge is undecided."""

    of: Series
    prompt: str
    seed: int
    error: str | None

    @property
    def undecided(self) -> bool:
        """Whether the judge says neither yes nor no."""
        return self.error is None


def failures(evaluation: Evaluation) -> Iterator[Failures]:
    """The failures of every eraser."""
    series, base = series_of(evaluation), evaluation.results[BASE]
    for name, result in erasers_of(evaluation).items():
        found = [pair for pair in _pairs(base, result) if pair.after.found is not None]
        erased = [pair for pair in found if not pair.after.probe.wanted]
        kept = [pair for pair in found if pair.after.probe.wanted and pair.before.found]
        through = sorted((pair for pair in erased if pair.failed), key=lambda pair: -pair.after.score)
        lost = sorted((pair for pair in kept if pair.failed), key=lambda pair: pair.after.score)
        yield Failures(
            series[name],
            _group("The erased concept came through", through, len(erased), "the highest scores first", series, name),
            _group("Lost, though it should have stayed", lost, len(kept), "the lowest scores first", series, name),
        )


def unanswered(evaluation: Evaluation) -> list[Unanswered]:
    """Images that count in no rate or score, with the reason."""
    series = series_of(evaluation)
    rows = (
        Unanswered(series[name], job.prompt, job.seed, error)
        for name, result in evaluation.results.items()
        for job, error in (
            *((shot.probe.job, shot.error) for shot in result.shots if shot.found is None),
            *((image.job, image.error) for image in result.unread),
        )
    )
    return list(dict.fromkeys(rows))  # an image once, however much is asked of it


def _pairs(base: Result, result: Result) -> list[Pair]:
    metrics = dict.fromkeys(shot.probe.metric for shot in result.shots if not shot.probe.further)
    return [pair for metric in metrics for pair in pairs(base, result, metric)]


def _group(title: str, failed: Sequence[Pair], there: int, how: str, series: Mapping[str, Series], name: str) -> Group:
    shown = failed[:SHOWN]
    note = f"{len(failed) or 'none'} of {counted(there, 'image')}"
    if len(shown) < len(failed):
        note += f"; {len(shown)} shown, {how}"
    tiles = [
        Tile(
            pair.after.probe.job.prompt,
            _detail(pair.after),
            [picture(series[BASE], pair.before), picture(series[name], pair.after, failed=True)],
        )
        for pair in shown
    ]
    return Group(title, note, tiles)


def _detail(shot: Shot) -> str:
    attack = shot.probe.attack
    asked = f"{shot.probe.metric}{f' by {attack}' if attack else ''}"
    if shot.probe.concept not in shot.probe.job.prompt:
        asked += f" ({shot.probe.concept})"
    return f"seed {shot.probe.job.seed} · score {shot.score:.2f} · {asked}"
