"""`efface.evaluate`: erasers to a report of how well they forget and what they retain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast, get_args

from efface.api.arguments import judge_name, model_from, override
from efface.api.erasers import named_erasers
from efface.api.optional import none_is_not_given
from efface.eraser.base_check import check_base
from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file
from efface.generation.prompts import PromptFile, read_prompt_file
from efface.judges import Judge, open_judge
from efface.judges.wrappers import NoJudge
from efface.protocols import PROTOCOLS, Evaluation, Protocol
from efface.protocols.neighbours import propose_neighbours
from efface.protocols.plan import BASE
from efface.protocols.run import run_protocol
from efface.protocols.run_images import Stage
from efface.report.document import PAGE, write_report
from efface.request.record import Request
from efface.work_folder import claim

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.progress import Progress
    from efface.settings import Scalar


_SECOND_STAGE = "the stage judge needs the folder (-o) and all other arguments of the stage generate, which runs first"


@none_is_not_given
def evaluate(
    erasers: EraserLike | Sequence[EraserLike] | Mapping[str, EraserLike],
    protocol: str | Protocol = "err",
    *,
    model: ModelLike = "emoji",
    judge: Judge | str | None = None,
    n: int | None = None,
    seed: int = 0,
    prompts: Path | str | None = None,
    concept_column: str | None = None,
    data: Path | str | None = None,
    filter: str | None = None,
    settings: Mapping[str, Scalar] | None = None,
    attacks: Sequence[str] | None = None,
    request: Request | Path | str | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    batch_size: int | None = None,
    trust_torchscript: bool = False,
    base: Path | str | None = None,
    stage: str | None = None,
    device: DeviceLike = "auto",
    folder: Path | str | None = None,
    force: bool = False,
    title: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Generate images with and without each eraser, judge them, and write a report.

    Example:
        >>> evaluation = efface.evaluate("cat.safetensors", n=20)
        >>> evaluation.erasers["cat"].metrics["forget"].value
        1.0
        >>> evaluation.report
        PosixPath('/tmp/efface-f3v2z1xw/report.html')

    Args:
        erasers: Erasers to compare; files, folders of files, or patterns; or erasers by name.
        protocol: The protocol, or its name (`efface protocols`).
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        judge: A judge, or its name (`efface judges`); by default the model's own, if it has one.
        n: The number of images of each concept, or of what the protocol counts; by default the protocol's.
        seed: The seed of the first image of each list of prompts.
        prompts: A file of prompts: a CSV, JSON, or one prompt per line.
        concept_column: The column of the file with the concept of each prompt; `none` for no column. By default, it is
            found by its name or its words.
        data: Pictures, a data set's folder or a file of statistics, for protocols that read them.
        filter: A regular expression, or a shell pattern: the checkpoints to use of each folder and its subfolders, of
            any format that `efface import` reads.
        settings: The protocol's settings.
        attacks: Names of attacks that search for adversarial prompts (`efface attacks`).
        request: A request, or its YAML file, to evaluate instead of what each eraser erased.
        steps: The number of sampling steps; by default the protocol's or the model's.
        sampler: Name of the sampler: dpm++, ddim, lms or own (the model's).
        eta: The share of DDPM's noise that DDIM adds in each step; by default the protocol's.
        batch_size: The number of images that are denoised together; changes speed only.
        trust_torchscript: Whether a judge's TorchScript file, which is a program, may be run.
        base: A folder with images of the unedited model, such as an earlier evaluation: an image with the prompt, the
            seed and the settings is copied, and only the others are generated.
        stage: "generate" generates all images of the evaluation in the folder. "judge" then does the rest with these
            images and with the same other arguments, also on another machine. By default, both are done.
        device: The device to open a model's name on, or an `efface.Runtime`.
        folder: The folder of images, verdicts and report. An interrupted evaluation resumes in it. Without a folder,
            all are in a temporary folder, which exists as long as the returned object.
        force: Whether other work in the folder may be replaced.
        title: The report's heading.
        progress: The progress callback.

    Raises:
        AlreadyComplete: The folder has the result of the same evaluation.
        BadInput: An argument cannot be used; the message says what to change.
    """
    if stage not in (None, *get_args(Stage)):
        raise BadInput(f"Unknown stage '{stage}'; there is: {', '.join(get_args(Stage))}.")
    if stage and folder is None:
        raise BadInput("The images of a stage stay in a folder; give one.")
    if stage == "judge" and not (Path(folder or "") / "images").is_dir():
        raise BadFile(f"{folder} has no images to judge: {_SECOND_STAGE}.")
    entry = PROTOCOLS.get(protocol) if isinstance(protocol, str) else protocol
    chosen = _judge_or_name(entry, model, judge, device)
    request = Request.from_yaml(request) if isinstance(request, (Path, str)) else request
    opened = model_from(model, device)
    loaded = named_erasers(erasers, opened, names=filter)
    prompts, data = (path if path is None else Path(path) for path in (prompts, data))
    sampling = override(entry.sampling(opened, data), steps=steps, sampler=sampler, eta=eta, batch_size=batch_size)
    n = entry.n if n is None else n
    file = prompts and read_prompt_file(prompts, seed, concept_column)
    for name, eraser in loaded.items():
        check_base(eraser, opened, force=False)
        if request is None and eraser.provenance.get("settings", {}).get("named_by") == "file":
            raise BadInput(f"Nothing says what {name} erases; give --request FILE.yaml, or import it with --concept.")
    work: dict[str, Any] = {
        "erasers": {name: eraser.hash for name, eraser in loaded.items()},
        "model": opened.hash,
        **opened.runtime.facts(opened.dtype),
        "protocol": entry.name,
        "judge": chosen if isinstance(chosen, str) or chosen is None else f"{chosen.name} {chosen.version}",
        "n": n,
        "seed": seed,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "request": request and request.model_dump(mode="json"),
        "prompts": file and sha256_of_file(file.path),
        "data": data and (sha256_of_file(data) if data.is_file() else data.resolve().name),
        "options": dict(settings or {}),
        "attacks": attacks and list(attacks),
        **({"concept_column": concept_column} if concept_column else {}),
    }
    if entry.states is not None:
        states = entry.attached(loaded, settings or {}, opened, request)
        work["states"] = {name: eraser.hash for name, eraser in states.items()}
    if sampling.eta:
        work["eta"] = sampling.eta
    temporary = TemporaryDirectory(prefix="efface-") if folder is None else None
    out = Path(temporary.name) if temporary else Path(folder or "")
    advice = {"advice": _SECOND_STAGE} if stage == "judge" else {}
    with nullcontext() if temporary else claim(out, "evaluate", work, PAGE, force, **advice):
        if isinstance(chosen, str):
            requests = [request] if request else [eraser.request for eraser in loaded.values()]
            chosen = open_judge(chosen, named_concepts(requests, file), str(opened.device), trust_torchscript)
        evaluation = run_protocol(
            entry,
            opened,
            loaded,
            chosen or NoJudge(),
            out=out,
            n=n,
            sampling=sampling,
            request=request,
            seed=seed,
            prompts=prompts,
            concept_column=concept_column,
            data=data,
            options=settings,
            attacks=attacks,
            trust_torchscript=trust_torchscript,
            base_images=None if base is None else Path(base),
            stage=cast("Stage | None", stage),
            progress=progress,
        )
        if stage == "generate":
            return evaluation
        if entry.write:
            erasers_alone = {name: result.images for name, result in evaluation.erasers.items() if name != BASE}
            entry.write(erasers_alone, out)
        report = write_report(evaluation, out, title)
    if file:
        file.log()
    return replace(evaluation, report=report, folder=temporary)


@none_is_not_given
def propose_adjacent(
    erasers: EraserLike | Sequence[EraserLike] | Mapping[str, EraserLike],
    *,
    model: ModelLike = "emoji",
    request: Request | Path | str | None = None,
    device: DeviceLike = "auto",
) -> dict[str, list[str]]:
    """Propose near neighbours of what was erased, by the text encoder, to list in a request under `adjacent`.

    An embedding reflects spelling as well as meaning: confirm each proposal.

    Example:
        >>> efface.propose_adjacent("cat.safetensors")["cat"][:2]
        ['tiger', 'dog']

    Args:
        erasers: Erasers; files, folders of files, or patterns; or erasers by name.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        request: A request, or its YAML file, to use instead of what each eraser erased.
        device: The device to open a model's name on, or an `efface.Runtime`.

    Returns:
        By concept, the nearest words, the nearest first.

    Raises:
        BadInput: An argument cannot be used, or the model's tokenizer lists no words.
    """
    request = Request.from_yaml(request) if isinstance(request, (Path, str)) else request
    opened = model_from(model, device)
    loaded = named_erasers(erasers, opened)
    proposed: dict[str, list[str]] = {}
    for one in [request] if request else [eraser.request for eraser in loaded.values()]:
        proposed |= propose_neighbours(opened, one)
    return proposed


def named_concepts(requests: Sequence[Request], file: PromptFile | None = None) -> tuple[str, ...]:
    """All concepts that requests and a file of prompts name: what a judge of any words has to distinguish.

    Args:
        requests: The requests.
        file: The prompts of a file, if there is one.
    """
    words = [
        word
        for request in requests
        for concept in request.concepts
        for word in (concept.name, concept.guide or "", *concept.adjacent)
    ]
    words += [prompt for request in requests for prompt in request.preserve]
    words += [job.concept for job in file.jobs] if file else []
    return tuple(dict.fromkeys(filter(None, words)))


def _judge_or_name(
    protocol: Protocol, model: ModelLike, judge: Judge | str | None, device: DeviceLike
) -> Judge | str | None:
    """The judge, or the name of the one to open; None for a protocol that asks none."""
    if not protocol.judged:
        if judge is not None:
            raise BadInput(f"The protocol '{protocol.name}' asks no judge; leave out --judge.")
        return None
    if judge is not None:
        return judge
    return judge_name(str(model) if isinstance(model, (str, Path)) else model_from(model, device), None)
