"""The `memorised` protocol: how often does a caption still bring back the picture that the model memorised?

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516, section 4.3;
https://github.com/nupurkmr9/concept-ablation. Of the images of a memorised caption

    copies  share of those that are copies of the picture: of cosine 0.5 or more by SSCD, with
            `--judge sscd:FILE --trust-torchscript`; else of an RMS of 0.10 or less (the judge `pixels`)
    forget  1 - copies
    retain  share of other prompts' images that show what they say, by the judge (with SSCD: by `-s others=JUDGE`)

before and after. The picture comes with `--data`: a file, a folder of several versions of it, or a folder with
`metadata.jsonl`, whose column `prompt` is the caption; several captions need that. The embedded model brings its own,
and is asked at guidance 2, at which all of its images are copies: strong guidance drives even a memorised picture into
other colours, so that a model would pass that had forgotten nothing. Other prompts are the catalogue's objects there;
else those of `--prompts` (column `concept`: what they show), else what the request preserves. The paper has n = 200,
guidance 6 and 50 steps of DDIM at eta 1, which here is at eta 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efface.errors import BadFile, BadInput
from efface.generation import Job, read_folder, read_prompts
from efface.judges import Judge, ReferenceJudge, open_judge
from efface.judges.base import Pixels
from efface.judges.pixels import PixelJudge
from efface.judges.shared.references import read_references
from efface.judges.wrappers import JoinedJudge
from efface.models.emoji import MEMORISED, catalogue
from efface.protocols.base import Probe
from efface.protocols.paper_sampling import Published
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, Plan, Prepared, found, good
from efface.protocols.probes.requests import take_turns
from efface.request.record import Request
from efface.settings import Settings

LOW = 2.0


class Config(Settings):
    """What `-s` sets.

    Attributes:
        guidance: Of the memorised captions' images; by default 6, as published, and 2 on the embedded model.
        others: The judge of other prompts' images, where `--judge` compares pictures.
    """

    guidance: float | None = None
    others: str = ""


def prepare(asked: Asked) -> Prepared:
    """n images of each memorised caption, and n of other prompts."""
    config = Config.model_validate(asked.inputs.options)
    captions = tuple(dict.fromkeys(name for request in asked.requests.values() for name in request.names))
    references = _references(asked, captions)
    guidance = LOW if config.guidance is None and asked.model.name == "emoji" else config.guidance
    plans: dict[str, Plan] = {}
    for name, request in asked.requests.items():
        probes = [
            Probe("forget", concept.name, Job(concept.name, asked.seed + k, guidance, concept.name), concept.guide)
            for concept in request.concepts
            for k in range(asked.n)
        ]
        others = [probe for probe in _others(asked, request) if probe.concept not in captions]
        plans[name] = Plan(
            (*probes, *others), {"copies": found("forget"), "forget": good("forget"), "retain": good("retain")}
        )
    shown = dict.fromkeys(p.concept for plan in plans.values() for p in plan.probes if p.metric == "retain")
    judge, other = _judges(asked, config)
    if other is None:
        # Nobody can say what other prompts' images show.
        plans = {
            name: Plan(tuple(probe for probe in plan.probes if probe.metric == "forget"), plan.rates)
            for name, plan in plans.items()
        }
        return Prepared(plans, judge.with_references(references))
    rivals = dict.fromkeys(captions, tuple(shown))
    return Prepared(plans, JoinedJudge(judge.with_references(references), other, rivals))


def _judges(asked: Asked, config: Config) -> tuple[ReferenceJudge, Judge | None]:
    """Who knows copies, and who knows the rest.

    Raises:
        BadInput: A judge or prompts are given that would be left aside.
    """
    if not isinstance(asked.judge, ReferenceJudge):
        if config.others:
            raise BadInput(f"'{asked.judge.name}' judges other prompts' images itself; leave -s others away.")
        return PixelJudge(), asked.judge
    chosen = config.others or ("emoji" if asked.model.name == "emoji" else "")
    if asked.inputs.prompts and not chosen:
        raise BadInput("Nobody here can say what the images of --prompts show; name a judge: -s others=JUDGE.")
    if not chosen:
        return asked.judge, None
    return asked.judge, open_judge(chosen, (), str(asked.model.device), asked.inputs.trust_torchscript)


def _references(asked: Asked, captions: Sequence[str]) -> Mapping[str, Sequence[Pixels]]:
    """The pictures of each caption.

    Raises:
        BadInput: A caption has none.
    """
    data, own = asked.inputs.data, catalogue().memorised
    if data is None:
        missing = [caption for caption in captions if caption != own or asked.model.name != "emoji"]
        if missing:
            raise BadInput(f"The picture of '{missing[0]}' is not known; give it with --data PICTURE or FOLDER.")
        return {own: read_references(MEMORISED)}
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


def _others(asked: Asked, request: Request) -> list[Probe]:
    """Prompts of other things, n in all."""
    if asked.inputs.prompts:
        jobs = read_prompts(asked.inputs.prompts, asked.seed)[: asked.n]
        return [Probe("retain", job.concept or job.prompt, job) for job in jobs]
    if asked.model.name == "emoji":
        cells = [(thing.name, f"a {thing.name}") for thing in catalogue().objects]
    else:
        cells = [(prompt, prompt) for prompt in request.preserve]
    return take_turns("retain", cells, asked.n, asked.seed)


PROTOCOL = planned(
    name="memorised",
    summary="share of copies of memorised pictures, before and after, and whether other prompts still work",
    paper="https://arxiv.org/abs/2303.13516",
    metrics=("copies", "forget", "retain"),
    prepare=prepare,
    n=50,
    config=Config,
    reads=("prompts", "data"),
    published=Published("ddim", 50, 6.0),
)
