"""What a protocol is asked, and its plan for an answer: what each eraser shall draw, and what counts for which rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from efface.generation import Job, Sampling
from efface.judges import Judge
from efface.judges.base import HasWorld
from efface.metrics.base import Measured
from efface.models import Model
from efface.models.builtin import World
from efface.protocols.answers import Count, Judged
from efface.protocols.base import Probe
from efface.protocols.inputs import Inputs
from efface.request.record import Request


@dataclass(frozen=True)
class Asked:
    """What a protocol is asked to evaluate.

    Attributes:
        model: The unedited model.
        requests: What each eraser erased.
        judge: Who answers, unless the protocol knows better.
        sampling: How images are made.
        n: How many, as the protocol counts.
        seed: Of the first image of each list.
        inputs: What else the user gives.
    """

    model: Model
    requests: Mapping[str, Request]
    judge: Judge
    sampling: Sampling
    n: int
    seed: int
    inputs: Inputs

    @property
    def world(self) -> World | None:
        """The closed world that the model draws or else the judge knows; None if neither has one."""
        if self.model.world is not None:
            return self.model.world
        return self.judge.world if isinstance(self.judge, HasWorld) else None

    @property
    def is_emoji(self) -> bool:
        """Whether the embedded model's catalogue says what there is to draw and to see."""
        return self.world is not None


@dataclass(frozen=True)
class Plan:
    """What one eraser shall draw.

    Attributes:
        probes: Images with a question each.
        rates: By flat name, what the answers add to.
        jobs: Images that no question is asked of.
    """

    probes: tuple[Probe, ...]
    rates: Mapping[str, Count] = field(default_factory=dict[str, Count])
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class BeforeAfter:
    """A score or a distance of one eraser's images, beside the unedited model's.

    Attributes:
        after: The number of the eraser's images.
        before: The number of the unedited model's images of the same prompts and seeds; None if they are the reference.
        change: The first minus the second, paired by prompt and seed; None without a second.
    """

    after: Measured
    before: Measured | None = None
    change: Measured | None = None


#: Scores and distances of a model's images, and which of the images that no question is asked of could not be read: of
#: the eraser's name (or `base`), its answers and the unedited model's.
Measure = Callable[[str, Judged, Judged], tuple[Mapping[str, BeforeAfter], Collection[Job]]]


@dataclass(frozen=True)
class Prepared:
    """A protocol's answer to what it is asked.

    Attributes:
        plans: By eraser.
        judge: Who answers.
        measure: What else is measured.
        labelled: Whether prompts say what they show, so that the judge has a recall.
        kept: Whether images stay in the folder and, of the unedited model, in the cache.
    """

    plans: Mapping[str, Plan]
    judge: Judge
    measure: Measure | None = None
    labelled: bool = True
    kept: bool = True


Prepare = Callable[[Asked], Prepared]


def good(*metrics: str) -> Count:
    """The share of answers of probes of these metrics that an ideal eraser would give."""
    return lambda shot: shot.good if shot.probe.metric in metrics else None


def found(*metrics: str) -> Count:
    """The share of probes of these metrics in which the concept is found."""
    return lambda shot: float(bool(shot.found)) if shot.probe.metric in metrics else None
