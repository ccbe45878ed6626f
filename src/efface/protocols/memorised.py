"""The `memorised` protocol: how often does a caption still bring back the picture that the model memorised?

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516, section 4.3;
https://github.com/nupurkmr9/concept-ablation. Of the images of a memorised caption

    copies  share of those that are copies of the picture: of cosine 0.5 or more by SSCD, with
            `--judge sscd:FILE --trust-torchscript`; else of an RMS of 0.10 or less (the judge `pixels`)
    forget  1 - copies
    retain  share of other prompts' images that show what they say, by the judge (with SSCD: by `-s others=JUDGE`)

before and after. The picture comes with `--data`: a file, a folder of several versions of it, or a folder with
`metadata.jsonl`, whose column `prompt` is the caption; several captions need that. The built-in model brings its own,
and is prompted at guidance 2, at which all of its images are copies: strong guidance changes the colours even of a
memorised picture, so that a model would pass that has forgotten nothing. Other prompts are the objects of its world;
else those of `--prompts` (column `concept`: what they show), else what the request preserves. The paper has n = 200,
guidance 6 and 50 steps of DDIM at eta 1, which here is at eta 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efface.errors import BadFile, BadInput
from efface.generation import Job, read_folder
from efface.judges import Judge, ReferenceJudge, open_judge
from efface.judges.base import Pixels
from efface.judges.pixels import PixelJudge
from efface.judges.shared.references import read_references
from efface.judges.wrappers import JoinedJudge
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, PaperSampling, Protocol
from efface.protocols.plan import Plan, Prepared, Probe, concept_shown, right_answers
from efface.protocols.probes.requests import take_turns
from efface.request.record import Request
from efface.settings import Settings

LOW = 2.0


class MemorisedConfig(Settings):
    """The settings.

    Attributes:
        guidance: The guidance scale of the memorised captions' images; by default 6, as published, and 2 for the
            built-in model.
        others: The judge of other prompts' images, where `--judge` compares pictures.
    """

    guidance: float | None = None
    others: str = ""


def prepare(evaluation: EvaluationInput) -> Prepared:
    """n images of each memorised caption, and n of other prompts."""
    config = MemorisedConfig.model_validate(evaluation.options)
    captions = tuple(dict.fromkeys(name for request in evaluation.requests.values() for name in request.names))
    references = _references(evaluation, captions)
    guidance = LOW if config.guidance is None and evaluation.model.world else config.guidance
    rates = {
        "copies": concept_shown("forget"),
        "forget": right_answers("forget"),
        "retain": right_answers("retain"),
    }
    plans: dict[str, Plan] = {}
    for name, request in evaluation.requests.items():
        probes = [
            Probe("forget", concept.name, Job(concept.name, evaluation.seed + k, guidance, concept.name), concept.guide)
            for concept in request.concepts
            for k in range(evaluation.n)
        ]
        others = [probe for probe in _others(evaluation, request) if probe.concept not in captions]
        plans[name] = Plan((*probes, *others), rates)
    shown = dict.fromkeys(p.concept for plan in plans.values() for p in plan.probes if p.metric == "retain")
    judge, other = _judges(evaluation, config)
    if other is None:
        # No judge can recognise what other prompts' images show.
        plans = {
            name: Plan(tuple(probe for probe in plan.probes if probe.metric == "forget"), plan.rates)
            for name, plan in plans.items()
        }
        return Prepared(plans, judge.with_references(references))
    rivals = dict.fromkeys(captions, tuple(shown))
    return Prepared(plans, JoinedJudge(judge.with_references(references), other, rivals))


def _judges(evaluation: EvaluationInput, config: MemorisedConfig) -> tuple[ReferenceJudge, Judge | None]:
    """The judge of copies, and that of other prompts.

    Raises:
        BadInput: A judge or prompts are given that would not be used.
    """
    judge = evaluation.judge
    if not isinstance(judge, ReferenceJudge):
        if config.others:
            raise BadInput(f"'{judge.name}' judges other prompts' images itself; leave out -s others.")
        return PixelJudge(), judge
    chosen = config.others or evaluation.model.default_judge
    if evaluation.prompts and not chosen:
        raise BadInput("No judge here can say what the images of --prompts show; name one: -s others=JUDGE.")
    if not chosen:
        return judge, None
    return judge, open_judge(chosen, (), str(evaluation.model.device), evaluation.trust_torchscript)


def _references(evaluation: EvaluationInput, captions: Sequence[str]) -> Mapping[str, Sequence[Pixels]]:
    """The pictures of each caption.

    Raises:
        BadInput: A caption has none.
    """
    data, world = evaluation.data, evaluation.model.world
    if data is None:
        missing = [caption for caption in captions if world is None or caption != world.memorised]
        if world is None or missing:
            raise BadInput(f"The picture of '{missing[0]}' is not known; give it with --data PICTURE or FOLDER.")
        return {world.memorised: read_references(world.memorised_picture)}
    labelled = [(str(image.row.get("prompt", "")), image) for image in read_folder(data)] if data.is_dir() else []
    if len(captions) == 1 and not any(prompt for prompt, _ in labelled):
        return {captions[0]: read_references(data)}
    references = {c: [image for prompt, image in labelled if prompt == c] for c in captions}
    for caption, images in references.items():
        if not images:
            raise BadInput(f"{data} has no picture of '{caption}'; its metadata.jsonl needs a row with that prompt.")
    try:
        return {caption: [image.pixels() for image in images] for caption, images in references.items()}
    except OSError as error:
        raise BadFile(f"Cannot read a picture in {data}: {error}.") from error


def _others(evaluation: EvaluationInput, request: Request) -> list[Probe]:
    """Prompts of other concepts, n in all."""
    if evaluation.prompts:
        jobs = evaluation.prompt_file("memorised").jobs[: evaluation.n]
        return [Probe("retain", job.concept or job.prompt, job) for job in jobs]
    if evaluation.model.world:
        cells = [(thing.name, f"a {thing.name}") for thing in evaluation.model.world.objects]
    else:
        cells = [(prompt, prompt) for prompt in request.preserve]
    return take_turns("retain", cells, evaluation.n, evaluation.seed)


ENTRY = Protocol(
    name="memorised",
    summary="share of copies of memorised pictures, before and after, and whether other prompts still work",
    paper="https://arxiv.org/abs/2303.13516",
    metrics=(Metric("copies", "images that are copies of the memorised picture", better="lower"), FORGET, RETAIN),
    prepare=prepare,
    n=50,
    config=MemorisedConfig,
    reads=("prompts", "data"),
    published=PaperSampling("ddim", 50, 6.0),
)
