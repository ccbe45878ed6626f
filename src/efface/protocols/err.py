"""The `err` protocol: is it forgotten, is the rest retained, near and far, however it is asked for?

After the challenge of the U&ME workshop at ICCV 2025: forget, retain, adjacent, indirect and adversarial accuracy, and
their harmonic mean, the erasing-retention-robustness score. Shares of images in which the judge

    forget       does not find the erased concept, prompted by name
    indirect     does not find it, prompted by other words for it
    adversarial  does not find it, prompted by given adversarial prompts, or by those that attacks find
    retain       finds what was prompted, of the same sort and not near
    adjacent     finds what was prompted, near neighbours of what was erased
    err          harmonic mean of those of the five that there are

Every rate stands beside the same rate of the unedited model on the same prompts and seeds, their paired difference,
and the judge's recall and false-positive rate on the unedited model's images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from efface.apply.weight_change import weight_change
from efface.eraser.eraser import Eraser
from efface.errors import BadInput
from efface.generation import Sampling
from efface.judges import Judge
from efface.judges.wrappers import WithPeers
from efface.models import Model
from efface.models.emoji import catalogue
from efface.progress import Progress
from efface.protocols.answers import calibrate, judged, questions_of, union
from efface.protocols.attacking import Attacks, Found
from efface.protocols.base import BASE, Probe, Protocol
from efface.protocols.comparing import comparisons
from efface.protocols.evaluation_record import check_erasers, provenance, reading_alike
from efface.protocols.inputs import Inputs, Reads
from efface.protocols.outcomes import METRICS, compared, outcome
from efface.protocols.plans import good
from efface.protocols.probes.emoji import EmojiWorld
from efface.protocols.probes.file import with_file
from efface.protocols.probes.requests import probes_in_words
from efface.protocols.results import Calibration, Evaluation
from efface.request.record import Request

READS: tuple[Reads, ...] = ("prompts",)


def evaluate(
    model: Model,
    erasers: Mapping[str, Eraser],
    judge: Judge,
    *,
    out: Path,
    n: int = 100,
    sampling: Sampling | None = None,
    request: Request | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    inputs: Inputs | None = None,
    attacks: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate erasers side by side against the unedited model.

    Args:
        model: The unedited model.
        erasers: By the name that the result has them under; `base` is taken.
        judge: Who answers.
        out: Folder for images and verdicts; a second run with the same folder makes only what is missing.
        n: Images a concept for `forget` and in all for `retain`; half as many for each of the others.
        sampling: How; `None` takes the model's default.
        request: What to ask about; `None` asks about what each eraser erased.
        seed: Of the first image of each list of prompts.
        progress: Told as images are done.
        inputs: A file of prompts (see `probes_file.py`), each of which is drawn at least once; it reads nothing else.
        attacks: What stands in for adversarial prompts; `None` takes given prompts, and where a concept has none, the
            attacks of `efface.attacks.DEFAULT`.

    Raises:
        BadInput: The judge cannot recognise a concept, an eraser's name is taken, or one is not of this model; or n is
            too small for the attacks.
    """
    check_erasers(erasers)
    if n < 2:
        raise BadInput(f"{n} images a concept are too few; ask for at least 2.")
    prompts = _prompts(inputs)
    sampling = reading_alike(sampling or Sampling.default(model), erasers)
    searches = Attacks(model, judge, sampling, out, attacks, progress)
    requests = {name: request or eraser.request for name, eraser in erasers.items()}
    plans = {name: searches.given(plan(model, judge, r, n, seed, prompts)) for name, r in requests.items()}
    probes = [probe for plan in plans.values() for probe in plan]
    if not any(judge.peers(probe.concept) for probe in probes):
        # An open world has no peers, and without them a judge could find nothing that is not there.
        judge = WithPeers(judge, (probe.concept for probe in probes))
    questions = questions_of(judge, probes)
    found: dict[str, Found] = {}
    for name, eraser in erasers.items():
        found[name] = searches.on(eraser, name, requests[name], plans[name], n // 2, seed)
        plans[name] += found[name].probes
    asked = union(plans.values())
    base = judged(model, asked, judge, questions, sampling, out, progress=progress)
    results = {BASE: outcome(asked, base, judge)}
    for name, eraser in erasers.items():
        edited = judged(model, plans[name], judge, questions, sampling, out, name, eraser, progress)
        result = compared(plans[name], edited, base, judge, found[name].failed)
        results[name] = replace(result, weight_change=weight_change(eraser.edits, model))
    recall, wrong = calibrate(asked, base, judge)
    facts = provenance(model, erasers, judge, questions, sampling, n, seed)
    if inputs:
        facts["inputs"] = inputs.as_dict()
    if any(probe.attack for probes in plans.values() for probe in probes) or any(f.failed for f in found.values()):
        facts["attacks"] = searches.settings
    told = Calibration(judge.name, judge.version, recall, wrong)
    beside = comparisons(results, {name: {metric: good(metric) for metric in METRICS} for name in erasers})
    return Evaluation("err", told, results, facts, comparisons=beside)


def plan(model: Model, judge: Judge, request: Request, n: int, seed: int, prompts: Path | None = None) -> list[Probe]:
    """The probes for one request: the file's, and for other rates the catalogue's or the request's own."""
    probes = EmojiWorld(catalogue(), request).probes(n, seed) if "emoji" in (model.name, judge.name) else None
    probes = probes_in_words(request, n, seed) if probes is None else probes
    return probes if prompts is None else with_file(probes, prompts, request, n, seed)


def _prompts(inputs: Inputs | None) -> Path | None:
    if inputs is None:
        return None
    inputs.check_read("err", READS)
    if inputs.options:
        raise BadInput("The protocol 'err' has no settings; leave -s away.")
    return inputs.prompts


ERR = Protocol(
    name="err",
    summary="forget, retain, adjacent, indirect and adversarial accuracy, and their harmonic mean",
    paper="U&ME workshop challenge, ICCV 2025",
    metrics=(*METRICS, "err"),
    evaluate=evaluate,
    reads=READS,
)
