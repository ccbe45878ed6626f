"""The `err` protocol: is it forgotten, is the rest retained, near and far, however it is asked for?

After the challenge of the U&ME workshop at ICCV 2025: forget, retain, adjacent, indirect and adversarial accuracy, and
their harmonic mean, the erasing-retention-robustness score. Shares of images in which the judge

    forget       does not find the erased concept, prompted by name
    indirect     does not find it, prompted by other words for it
    adversarial  does not find it, prompted by given adversarial prompts, or by those that attacks find
    retain       finds what was prompted, of the same kind and not near
    adjacent     finds what was prompted, near neighbours of what was erased
    err          harmonic mean of those of the five that were measured

Every rate has the same rate of the unedited model on the same prompts and seeds, their paired difference, and the
judge's recall and false-positive rate on the unedited model's images.

`n` images of each concept for `forget`, n in all for `retain`, and half as many for each of the others. `per_prompt`
counts as the challenge's entries do: so many images of each prompt of a dataset, and of no other prompt.

The answers are also written to `evaluation_results.csv`, from which the rates can be computed.
"""

from __future__ import annotations

from pydantic import Field

from efface.generation.prompts import PromptFile
from efface.judges.wrappers import WithPeers
from efface.models.builtin import World
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, Protocol
from efface.protocols.evaluation_results import write_judged_images
from efface.protocols.plan import HarmonicMean, Plan, Prepared, Probe, right_answers
from efface.protocols.probes.closed_world import ClosedWorldProbes
from efface.protocols.probes.file import probes_of_file, with_file
from efface.protocols.probes.requests import probes_in_words
from efface.request.record import Request
from efface.settings import Settings

METRICS = (
    FORGET,
    RETAIN,
    Metric("adjacent", "near neighbours of the erased concept are found"),
    Metric("indirect", "absent when prompted in other words"),
    Metric("adversarial", "absent under prompts that try to bring it back"),
)
RATES = tuple(metric.name for metric in METRICS)


class ErrConfig(Settings):
    """Settings of the protocol `err`.

    Attributes:
        per_prompt: Number of images of each prompt of the file; None counts images of each concept.
    """

    per_prompt: int | None = Field(default=None, ge=1)


def prepare(evaluation: EvaluationInput) -> Prepared:
    """The probes of each request; chosen attacks replace its adversarial prompts."""
    n, seed, judge = evaluation.n, evaluation.seed, evaluation.judge
    per_prompt = ErrConfig.model_validate(evaluation.options).per_prompt
    rates = {name: right_answers(name) for name in RATES}
    plans: dict[str, Plan] = {}
    file = evaluation.prompt_file("err") if evaluation.prompts else None
    for name, request in evaluation.requests.items():
        if per_prompt is None:
            probes = probes_of(request, evaluation.world, n, seed, file)
        else:
            probes = probes_of_file(evaluation.prompt_file("err"), request, n, per_prompt)
        if evaluation.attacks is not None:
            probes = [probe for probe in probes if probe.metric != "adversarial"]
        plans[name] = Plan(tuple(probes), rates)
    concepts = [probe.concept for plan in plans.values() for probe in plan.probes]
    if not any(judge.peers(concept) for concept in concepts):
        # A judge of an open world names no peers, and without them it has no false positives.
        judge = WithPeers(judge, concepts)
    overall = HarmonicMean("err", needs=("forget", "retain"))
    searched = per_prompt is None or evaluation.attacks is not None
    return Prepared(plans, judge, overall=overall, attack_images=n // 2 if searched else 0)


def probes_of(
    request: Request, world: World | None, n: int, seed: int, prompts: PromptFile | None = None
) -> list[Probe]:
    """The probes of one request: those of a file and, for other rates, of the closed world or the request's own words.

    Args:
        request: What was erased.
        world: The closed world of the model or the judge, if there is one.
        n: Number of images.
        seed: Seed of the first image of each list of prompts.
        prompts: The prompts of the file.
    """
    probes = ClosedWorldProbes(world, request).probes(n, seed) if world else None
    probes = probes_in_words(request, n, seed) if probes is None else probes
    return probes if prompts is None else with_file(probes, prompts, request, n)


ENTRY = Protocol(
    name="err",
    summary="forget, retain, adjacent, indirect and adversarial accuracy, and their harmonic mean",
    paper="U&ME workshop challenge, ICCV 2025",
    metrics=(*METRICS, Metric("err", "harmonic mean of the rates above")),
    prepare=prepare,
    least=2,
    reads=("prompts",),
    config=ErrConfig,
    attacked=True,
    write=write_judged_images,
)
