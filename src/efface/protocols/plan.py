"""What a protocol prepares for the run: images to generate, questions to ask, and which answer counts for which rate.

A probe is one image and one question about it. The run generates the images of each eraser's plan, asks the judge, and
turns each probe into a `JudgedImage`; a `Count` says what a judged image adds to a rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from efface.generation import Image, Job
from efface.judges import Judge
from efface.judges.base import Scores
from efface.metrics.base import Measured

#: The name of the unedited model in results.
BASE = "base"

#: What an image shows that was prompted for an erased concept.
Destination = Literal["concept", "undecided", "guide", "other", "nothing", "broken", "error"]
DESTINATIONS: tuple[Destination, ...] = get_args(Destination)

#: Metrics of probes whose concept should be absent; the concept of every other probe should be present.
FORGETTING = frozenset({"forget", "indirect", "adversarial"})
#: Metrics of probes whose prompt does not contain the concept's name.
UNNAMED = frozenset({"indirect", "adversarial"})


@dataclass(frozen=True)
class Probe:
    """One image to generate and one question about it.

    Attributes:
        metric: The rate that the answer counts for. `forget` (the prompt names an erased concept), `indirect` (it uses
            other words) and `adversarial` (it tries to bring the concept back) are probes of erased concepts; probes
            of any other metric, such as `retain` and `adjacent`, ask for something that should still be there.
        concept: The concept in question.
        job: How the image is generated.
        guide: Of a probe of an erased concept, what the concept was erased towards.
        attack: Of an adversarial probe, the attack that found the prompt; None for a given prompt.
        further: Whether this is a further question about the image of a `forget` probe. The concept should be absent
            too, and the report shows the image once.
    """

    metric: str
    concept: str
    job: Job
    guide: str | None = None
    attack: str | None = None
    further: bool = False

    @property
    def wanted(self) -> bool:
        """Whether the concept should be present."""
        return not self.further and self.metric not in FORGETTING


@dataclass(frozen=True)
class JudgedImage:
    """A probe's image and the judge's answer.

    Attributes:
        probe: The image and the question.
        path: The image file; None if the image could not be generated, or is not stored.
        shows: Whether the image shows the concept; None on an error, and if the judge is undecided.
        score: The judge's score for the concept; NaN on an error.
        recognised: The concept with the highest score among those in question; None if none reaches its threshold.
        destination: Of a probe of an erased concept, what the image shows.
        error: Why there is no answer.
    """

    probe: Probe
    path: Path | None
    shows: bool | None
    score: float
    recognised: str | None = None
    destination: Destination | None = None
    error: str | None = None

    @property
    def undecided(self) -> bool:
        """Whether the judge answers neither yes nor no."""
        return self.shows is None and self.error is None

    @property
    def right(self) -> float:
        """1 if the answer is that of an ideal eraser, else 0; only for images with an answer."""
        return float(self.shows is self.probe.wanted)


@dataclass(frozen=True)
class FailedImage:
    """An image without a question that could not be generated or read, so that no score includes it.

    Attributes:
        job: How the image was to be generated.
        error: The reason.
    """

    job: Job
    error: str


@dataclass(frozen=True)
class ScoredImages:
    """The images of one model and the judge's score of each for each question.

    Attributes:
        images: By job.
        questions: The m questions.
        scores: By job, scores of shape (m,); NaN on errors. Images without a question have none.
        errors: By job, the error or an empty text.
    """

    images: Mapping[Job, Image]
    questions: tuple[str, ...]
    scores: Mapping[Job, Scores]
    errors: Mapping[Job, str]


#: What a judged image adds to a rate, or None if it does not count there; decided by its probe alone.
Count = Callable[[JudgedImage], float | None]


def right_answers(*metrics: str) -> Count:
    """Count the share of answers of an ideal eraser, among the probes of these metrics."""
    return lambda image: image.right if image.probe.metric in metrics else None


def concept_shown(*metrics: str) -> Count:
    """Count the share of images that show the concept, among the probes of these metrics."""
    return lambda image: float(bool(image.shows)) if image.probe.metric in metrics else None


@dataclass(frozen=True)
class Plan:
    """What one eraser has to generate.

    Attributes:
        probes: Images with a question each.
        rates: By flat name, what the answers add to each rate.
        jobs: Images without a question.
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


#: Measures scores and distances of one model's images. Takes the eraser's name (or `base`), its answers and those of
#: the unedited model. Returns the numbers by flat name, and the jobs without a question whose image cannot be read.
MeasureScores = Callable[[str, ScoredImages, ScoredImages], tuple[Mapping[str, BeforeAfter], Collection[Job]]]


@dataclass(frozen=True)
class HarmonicMean:
    """One score over all rates of a plan, by which erasers are ranked.

    Attributes:
        name: Its flat name.
        needs: Rates without which there is no mean.
    """

    name: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """All that a protocol decides about one evaluation.

    Attributes:
        plans: By eraser.
        judge: The judge that answers.
        measure: Measures the scores and distances, if there are any.
        labelled: Whether prompts name what they show, so that the judge's recall can be measured.
        stores_images: Whether images stay in the folder and, of the unedited model, in the cache.
        overall: The score by which erasers are ranked, if there is one.
        attack_images: Number of images for each concept without adversarial prompts, for attacks to search and measure.
    """

    plans: Mapping[str, Plan]
    judge: Judge
    measure: MeasureScores | None = None
    labelled: bool = True
    stores_images: bool = True
    overall: HarmonicMean | None = None
    attack_images: int = 0
