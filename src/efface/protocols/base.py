"""What a protocol is: an entry of the registry that declares its metrics and prepares an evaluation.

A protocol is one module with one `ENTRY`. It declares what each metric means (`Metric`), which inputs and settings it
takes, and how the paper sampled its images. `prepare` turns an `EvaluationInput` into plans; `run.py` does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from efface.errors import BadInput
from efface.generation.folder import folder_name
from efface.generation.jobs import Sampler, Sampling
from efface.generation.prompts import PromptFile, read_prompt_file
from efface.judges import Judge
from efface.judges.base import HasWorld
from efface.models import Model
from efface.models.builtin import World
from efface.protocols.plan import BASE, JudgedImage, Prepared
from efface.request.record import Request
from efface.settings import Scalar, Settings

if TYPE_CHECKING:
    from efface.eraser.eraser import Eraser

#: The optional inputs of a protocol: `--prompts` and `--data`.
Reads = Literal["prompts", "data"]


@dataclass(frozen=True)
class Metric:
    """What one number of a protocol means. The report shows a metric by this declaration alone.

    Attributes:
        name: The flat name in results. Words in capitals stand for any text: `accuracy_CLASS`.
        meaning: One clause for the report.
        unit: `share` of images, shown in percent; otherwise what the number counts, or an empty text.
        better: Which direction is better for an eraser.
        axis: Whether the metric is an axis of the trade-off plot. The first metric of forgetting is plotted against the
            first metric of retention, the second against the second, and so on.
    """

    name: str
    meaning: str = ""
    unit: str = "share"
    better: Literal["higher", "lower"] = "higher"
    axis: Literal["forgetting", "retention"] | None = None

    def matches(self, name: str) -> bool:
        """Whether a flat name of a result is this metric's."""
        return re.fullmatch(re.sub(r"[A-Z]+", ".+", re.escape(self.name)), name) is not None


#: Metrics that most protocols share.
FORGET = Metric("forget", "the erased concept is absent from images prompted for it", axis="forgetting")
RETAIN = Metric("retain", "other concepts are found where they are prompted", axis="retention")


def metric_named(metrics: Sequence[Metric], name: str) -> Metric:
    """The declaration of a metric; one without a meaning if there is none.

    Args:
        metrics: The declarations.
        name: A flat name of a result.
    """
    return next((metric for metric in metrics if metric.matches(name)), Metric(name))


def trade_offs(metrics: Sequence[Metric]) -> tuple[tuple[str, str], ...]:
    """Pairs of (forgetting, retention) metrics, that of `forget` first; an empty name where there is no partner."""
    forgetting, retention = (
        [metric.name for metric in metrics if metric.axis == axis] for axis in ("forgetting", "retention")
    )
    pairs = [pair for pair in zip_longest(forgetting, retention, fillvalue="") if pair[0]]
    return tuple(sorted(pairs, key=lambda pair: pair[0] != FORGET.name))


@dataclass(frozen=True)
class PaperSampling:
    """How a paper sampled the images of its published numbers.

    Attributes:
        sampler: The nearest sampler here; where the paper's differs, the protocol's docstring says so.
        steps: Denoiser evaluations for each image and guidance branch.
        guidance: The guidance scale of all images; None if the paper fixes none.
        with_data: Whether the sampling applies only with the published data (`--data`).
        eta: The share of DDPM's noise that DDIM adds.
    """

    sampler: Sampler
    steps: int
    guidance: float | None = None
    with_data: bool = False
    eta: float = 0.0

    def __str__(self) -> str:
        guidance = "" if self.guidance is None else f", guidance {self.guidance:g}"
        eta = f", eta {self.eta:g}" if self.eta else ""
        return f"{self.sampler}, {self.steps} steps{guidance}{eta}{', with --data' if self.with_data else ''}"


@dataclass(frozen=True)
class EvaluationInput:
    """All that a protocol's `prepare` receives.

    Attributes:
        model: The unedited model.
        requests: By eraser, the request that it is evaluated on.
        judge: The judge that the user chose.
        sampling: How images are generated.
        n: Number of images, counted as the protocol says.
        seed: Seed of the first image of each list of prompts.
        prompts: A file of prompts (`--prompts`).
        data: Pictures, a data set's folder or a file of statistics (`--data`).
        options: The protocol's settings (`-s key=value`).
        attacks: Names of the attacks that the user chose; None leaves the choice to the protocol.
        trust_torchscript: Whether a TorchScript file that a setting names may run.
        concept_column: The column of the prompts' concepts (`--concept-column`); None finds it.
    """

    model: Model
    requests: Mapping[str, Request]
    judge: Judge
    sampling: Sampling
    n: int
    seed: int = 0
    prompts: Path | None = None
    data: Path | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    attacks: Sequence[str] | None = None
    trust_torchscript: bool = False
    concept_column: str | None = None

    @property
    def world(self) -> World | None:
        """The closed world that the model draws or else the judge knows; None if neither has one."""
        return world_of(self.model, self.judge)

    def prompt_file(self, protocol: str) -> PromptFile:
        """The prompts of `--prompts`.

        Args:
            protocol: The protocol's name, for messages.

        Raises:
            BadInput: There is no file, or it cannot be read.
        """
        if self.prompts is None:
            raise BadInput(f"The protocol '{protocol}' brings no prompts of its own; give a file with --prompts.")
        return read_prompt_file(self.prompts, self.seed, self.concept_column)


@dataclass(frozen=True)
class Protocol:
    """One named evaluation, as the registry stores it.

    Attributes:
        name: The protocol's name on the command line.
        summary: One line for `efface protocols`.
        paper: Link to the paper, or its title.
        metrics: The rates, scores and distances that the protocol can give.
        prepare: Makes the plans of an evaluation.
        n: Number of images for each concept, or of whatever the summary says that `n` counts, by default.
        least: The smallest `n`.
        judged: Whether the protocol asks a judge.
        reads: Which of `--prompts` and `--data` it reads.
        config: Its settings, if it has any.
        published: How the paper sampled its images, if that is known.
        attacked: Whether attacks search for adversarial prompts (`--attack`).
        write: Writes a further file of results, from the judged images of each eraser, to the folder of the evaluation.
        states: Replaces each eraser by the erasers that are attached at several times; takes the erasers by name, the
            settings and the unedited model.
    """

    name: str
    summary: str
    paper: str
    metrics: tuple[Metric, ...]
    prepare: Callable[[EvaluationInput], Prepared]
    n: int = 100
    least: int = 1
    judged: bool = True
    reads: tuple[Reads, ...] = ()
    config: type[Settings] | None = None
    published: PaperSampling | None = None
    attacked: bool = False
    write: Callable[[Mapping[str, Sequence[JudgedImage]], Path], None] | None = None
    states: Callable[[Mapping[str, Eraser], Mapping[str, Scalar], Model], Mapping[str, Eraser]] | None = None

    def attached(
        self, erasers: Mapping[str, Eraser], options: Mapping[str, Scalar], model: Model, request: Request | None
    ) -> Mapping[str, Eraser]:
        """The erasers that are attached, one after the other; the given ones, if the protocol has no `states`.

        Args:
            erasers: By name.
            options: The protocol's settings.
            model: The unedited model.
            request: What to ask about instead of what the erasers erased.

        Raises:
            BadInput: The protocol has `states`, and they do not fit the erasers, or there is a request.
        """
        if self.states is None:
            return erasers
        if request is not None:
            raise BadInput(f"The protocol '{self.name}' takes its concepts from the erasers; leave --request out.")
        return self.states(erasers, options, model)

    def sampling(self, model: Model, data: Path | None = None) -> Sampling:
        """The default sampling: that of the paper where it applies, else the model's.

        Papers measure Stable Diffusion. Models with settings of their own, and families that are sampled by their
        pipelines, some of which have no such sampler, keep theirs.

        Args:
            model: The unedited model.
            data: The published data (`--data`), if they are given.
        """
        default, paper = Sampling.default(model), self.published
        if paper is None or model.sampling is not None or model.call_parameters is not None:
            return default
        if paper.with_data and data is None:
            return default
        guidance = default.guidance if paper.guidance is None else paper.guidance
        return replace(default, sampler=paper.sampler, steps=paper.steps, guidance=guidance, eta=paper.eta)

    def check(self, given: EvaluationInput) -> None:
        """Refuse inputs that the protocol would ignore, and too few images.

        Raises:
            BadInput: An input is not one of the protocol's, or n is too small.
        """
        name = self.name
        for kind, path in {"prompts": given.prompts, "data": given.data}.items():
            if path is not None and kind not in self.reads:
                raise BadInput(f"The protocol '{name}' reads no --{kind}; leave it out.")
        if given.options and self.config is None:
            raise BadInput(f"The protocol '{name}' has no settings; leave out '{next(iter(given.options))}'.")
        if given.attacks is not None and not self.attacked:
            raise BadInput(f"The protocol '{name}' attacks nothing; leave out --attack.")
        if given.n < self.least:
            raise BadInput(f"{given.n} images are too few for the protocol '{name}'; ask for at least {self.least}.")


def world_of(model: Model, judge: Judge) -> World | None:
    """The closed world that a model draws or else a judge knows; None if neither has one.

    Args:
        model: The unedited model.
        judge: The judge.
    """
    if model.world is not None:
        return model.world
    return judge.world if isinstance(judge, HasWorld) else None


def check_erasers(erasers: Mapping[str, Eraser]) -> None:
    """Check that erasers can be evaluated together.

    Raises:
        BadInput: There is no eraser, two share a name, one is called `base`, or one debiases.
    """
    if not erasers:
        raise BadInput("There is no eraser to evaluate; give at least one.")
    folders = {folder_name(name).casefold(): name for name in erasers}
    if len(folders) < len(erasers) or BASE in folders:
        raise BadInput(f"Two erasers share a name, or one is called '{BASE}'; rename the files.")
    for name, eraser in erasers.items():
        debiasing = [part for part in (eraser, *eraser.parts) if part.request.goal == "debias"]
        if debiasing:
            concept = debiasing[0].request.concepts[0]
            raise BadInput(
                f"'{name}' debiases '{concept.name}' and erases nothing, which is what protocols measure; count its "
                f"attributes with efface generate '{concept.name}' -n 100 --eraser FILE -o DIR, then efface judge DIR "
                f"-q '{next(iter(concept.attributes))}'."
            )


def common_clip_skip(sampling: Sampling, erasers: Mapping[str, Eraser]) -> Sampling:
    """The sampling with the erasers' `clip_skip`, unless it has one itself, so that all models read text alike.

    Args:
        sampling: How images are generated.
        erasers: By name.

    Raises:
        BadInput: The erasers differ in `clip_skip`, and the unedited model's images are the same for all.
    """
    skips = {name: eraser.request.clip_skip or None for name, eraser in erasers.items()}
    if sampling.clip_skip is not None:
        return sampling
    if len(set(skips.values())) > 1:
        values = ", ".join(f"'{name}' {skip or 'none'}" for name, skip in skips.items())
        raise BadInput(f"The erasers were made with different clip_skip ({values}); evaluate those of one together.")
    return replace(sampling, clip_skip=next(iter(skips.values())))
