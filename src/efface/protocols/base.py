"""What an evaluation asks, and what a protocol is.

A protocol makes a plan of probes for each eraser; every probe is one image and one question to the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from typing import Protocol as Interface

from efface.generation.jobs import Job, Sampling
from efface.progress import Progress
from efface.protocols.paper_sampling import Published

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser
    from efface.judges import Judge
    from efface.models import Model
    from efface.protocols.inputs import Inputs, Reads
    from efface.protocols.results import Evaluation
    from efface.request.record import Request
    from efface.settings import Settings

#: Where an image that was prompted for an erased concept went.
Destination = Literal["concept", "undecided", "guide", "other", "nothing", "broken", "error"]
DESTINATIONS: tuple[Destination, ...] = get_args(Destination)

#: The rates at which a concept shall be absent; in all others it shall be found.
FORGETTING = frozenset({"forget", "indirect", "adversarial"})

BASE = "base"


@dataclass(frozen=True)
class Probe:
    """One image to make and one question about it.

    Attributes:
        metric: The rate that the answer counts for (`forget`, `retain`, `adjacent`, `indirect`, `adversarial`).
        concept: What the judge is asked to find.
        job: How the image is made.
        guide: What the concept was erased towards, if the probe is about an erased concept.
        attack: Of an adversarial probe, the attack that found its prompt; `None` where the prompt was given.
        further: One more question about an image that another probe asks whether it is forgotten: an ideal eraser's
            shows this no more, and the report tells of the image once.
    """

    metric: str
    concept: str
    job: Job
    guide: str | None = None
    attack: str | None = None
    further: bool = False

    @property
    def wanted(self) -> bool:
        """Whether an ideal eraser's image shows the concept."""
        return not self.further and self.metric not in FORGETTING


@dataclass(frozen=True)
class Shot:
    """A probe's image and the judge's answer.

    Attributes:
        probe: What was asked.
        path: The image; `None` where it could not be made.
        found: Whether the judge found the concept; `None` on an error, and where the judge is undecided.
        score: The judge's score for the concept; NaN on an error.
        saw: The best thing the judge recognised, among those that it was asked for; `None` for nothing.
        went: For probes of erased concepts, where the image went.
        error: Why there is no answer.
    """

    probe: Probe
    path: Path | None
    found: bool | None
    score: float
    saw: str | None = None
    went: Destination | None = None
    error: str | None = None

    @property
    def undecided(self) -> bool:
        """Whether the judge has seen the image and says neither yes nor no."""
        return self.found is None and self.error is None

    @property
    def good(self) -> float:
        """1 if the answer is the one that an ideal eraser gives, else 0; only for shots with an answer."""
        return float(self.found is self.probe.wanted)


@dataclass(frozen=True)
class Unread:
    """An image without a question that could not be made or read, so that no score counts it.

    Attributes:
        job: How it was to be made.
        error: Why.
    """

    job: Job
    error: str


class Evaluate(Interface):
    """The function of a protocol; see `efface.protocols.err.evaluate` for its arguments."""

    def __call__(
        self,
        model: Model,
        erasers: Mapping[str, Eraser],
        judge: Judge,
        *,
        out: Path,
        n: int = ...,
        sampling: Sampling | None = ...,
        request: Request | None = ...,
        seed: int = ...,
        progress: Progress | None = ...,
        inputs: Inputs | None = ...,
    ) -> Evaluation: ...


@dataclass(frozen=True)
class Protocol:
    """One named evaluation, as the registry holds it.

    Attributes:
        name: What it is called on the command line.
        summary: One line for `efface protocols`.
        paper: Where it comes from.
        metrics: The flat names of the rates, scores and distances that it can give.
        evaluate: Runs it.
        n: Images a concept, or what else it says that `n` counts, where none is given.
        judged: Whether it asks a judge at all.
        reads: Which of `--prompts` and `--data` it reads.
        config: Its own settings, if it has any.
        published: How the paper's images were sampled, where that is known.
    """

    name: str
    summary: str
    paper: str
    metrics: tuple[str, ...]
    evaluate: Evaluate
    n: int = 100
    judged: bool = True
    reads: tuple[Reads, ...] = ()
    config: type[Settings] | None = None
    published: Published | None = None
