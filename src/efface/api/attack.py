"""`efface.attack`: how often an attack brings an erased concept back, prompt by prompt."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from efface.api.arguments import judge_name, model_from, override
from efface.api.erasers import named_erasers
from efface.api.evaluate import named_concepts
from efface.api.optional import none_is_not_given
from efface.api.result import VerbResult
from efface.attacks import ATTACKS, Attack
from efface.attacks.attempts import AttackResult, attack_erasers, discard_attempts
from efface.attacks.search import AttackRun
from efface.eraser.base_check import check_base
from efface.errors import BadInput
from efface.files import atomic, slug
from efface.generation import Job, Sampling
from efface.generation.prompts import PromptFile, read_prompt_file
from efface.json_writing import json_text
from efface.judges import Judge, open_judge
from efface.parsing import read_json
from efface.protocols import Calibration
from efface.protocols.base import check_erasers, common_clip_skip, world_of
from efface.protocols.err import probes_of
from efface.protocols.evaluation_record import evaluation_record
from efface.report.attack_headline import attack_headline
from efface.report.headline import Headline
from efface.request.names import name_key
from efface.request.record import Concept, Request
from efface.tools import latents_of
from efface.work_folder import claim

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.eraser.eraser import Eraser
    from efface.progress import Progress
    from efface.settings import Scalar

#: The files of an attack: all attempts, and the texts that brought the concept back.
RESULT, TEXTS = "attack.json", "adversarial.csv"


@dataclass(frozen=True)
class AttackEvaluation(VerbResult):
    """The result of one attack on several erasers.

    Attributes:
        attack: The attack's name.
        concept: The concept that was to come back.
        judge: The judge; its recall is the share of the same prompts' images, without an eraser, that show the concept.
        erasers: By name, the attempts on each eraser and their rates.
        settings: The attack's settings.
        provenance: Model, sampling, erasers, seeds and library versions.
        out: The folder of the result; None without one.
    """

    attack: str
    concept: str
    judge: Calibration
    erasers: Mapping[str, AttackResult]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    out: Path | None

    @property
    def errors(self) -> int:
        """The number of prompts without an answer because of a failure."""
        return sum(result.errors for result in self.erasers.values())

    def headline(self, name: str) -> Headline:
        """Whether the attack brings the concept back from one eraser, as far as the intervals allow.

        Args:
            name: The eraser's name.
        """
        return attack_headline(self.concept, self.judge.recall, self.erasers[name])

    def to_json(self) -> dict[str, Any]:
        """The object that `efface attack --json` prints; attempts are in the folder's `attack.json`."""
        return {
            "attack": self.attack,
            "concept": self.concept,
            "judge": self.judge.as_dict(),
            "erasers": {
                name: {**result.as_dict(), "headline": self.headline(name).text}
                for name, result in self.erasers.items()
            },
            "settings": dict(self.settings),
            "provenance": dict(self.provenance),
            "out": self.out and str(self.out),
        }


@none_is_not_given
def attack(
    erasers: EraserLike | Sequence[EraserLike] | Mapping[str, EraserLike],
    attack: str | Attack = "unlearndiff",
    *,
    concept: str | None = None,
    model: ModelLike = "emoji",
    judge: Judge | str | None = None,
    settings: Mapping[str, Scalar] | None = None,
    prompts: Path | str | None = None,
    concept_column: str | None = None,
    n: int = 20,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    batch_size: int | None = None,
    keep_images: bool = False,
    trust_torchscript: bool = False,
    device: DeviceLike = "auto",
    folder: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> AttackEvaluation:
    """Attack each eraser alone: the share of prompts for which the concept comes back.

    Example:
        >>> result = efface.attack("cat.safetensors", "random_prefix", n=8)
        >>> result.erasers["cat"].asr.value
        0.125

    Args:
        erasers: Erasers; files, folders of files, or patterns; or erasers by name.
        attack: The attack, or its name (`efface attacks`).
        concept: The concept to bring back; by default the only one that was erased.
        model: An open model, a diffusers pipeline, or the name, folder or file of a model.
        judge: A judge, or its name (`efface judges`); by default the model's own, if it has one.
        settings: The attack's settings.
        prompts: A file of prompts to start from: a CSV, or one prompt per line; by default those of the protocol err.
        concept_column: The column of the file with the concept of each prompt; `none` for no column. By default, it is
            found by its name or its words.
        n: The largest number of prompts.
        seed: The seed of the first prompt.
        steps: The number of sampling steps; by default the model's.
        sampler: Name of the sampler: dpm++, ddim, lms or own (the model's).
        batch_size: The number of images that are denoised together; changes speed only.
        keep_images: Whether the images of an unsafe concept are stored, too.
        trust_torchscript: Whether a judge's TorchScript file, which is a program, may be run.
        device: The device to open a model's name on, or an `efface.Runtime`.
        folder: The folder of images and results. An interrupted attack resumes in it. Without a folder, only the
            returned object has the result.
        force: Whether other work in the folder may be replaced.
        progress: The progress callback.

    Raises:
        AlreadyComplete: The folder has the result of the same attack.
        BadInput: An argument cannot be used; the message says what to change.
    """
    entry = ATTACKS.get(attack) if isinstance(attack, str) else attack
    config = entry.config.model_validate(dict(settings or {}))
    if judge is None:
        judge = judge_name(str(model) if isinstance(model, (str, Path)) else model_from(model, device), None)
    opened = model_from(model, device)
    loaded = named_erasers(erasers, opened)
    check_erasers(loaded)
    requests = [eraser.request for eraser in loaded.values()]
    request = _request_of(requests, concept)
    target = request.concepts[0]
    file = None if prompts is None else read_prompt_file(prompts, seed, concept_column)
    for eraser in loaded.values():
        check_base(eraser, opened, force=False)
    sampling = override(Sampling.default(opened), steps=steps, sampler=sampler, batch_size=batch_size)
    sampling = common_clip_skip(sampling, loaded)
    if isinstance(judge, str):
        judge = open_judge(judge, named_concepts([request, *requests], file), str(opened.device), trust_torchscript)
    probes = probes_of(request, world_of(opened, judge), n, seed)
    others = [probe.job for probe in probes if probe.wanted][:n]
    jobs = [probe.job for probe in probes if probe.metric == "forget"]
    jobs = _jobs_of(file, target)[:n] if file else jobs
    run = AttackRun(
        opened,
        judge,
        entry,
        config,
        target.name,
        sampling,
        latents_of(opened),
        words=target.aliases,
        stores_images=keep_images or target.kind != "unsafe",
    )
    work: dict[str, Any] = {
        "erasers": {name: eraser.hash for name, eraser in loaded.items()},
        "model": str(model) if isinstance(model, (str, Path)) else opened.name,
        "device": str(opened.device),
        **opened.runtime.facts(opened.dtype),
        "attack": {entry.name: config.model_dump(mode="json")},
        "concept": target.name,
        "judge": [judge.name, judge.version],
        "sampling": [sampling.sampler, sampling.steps],
        "jobs": [[job.prompt, job.seed, job.guidance] for job in jobs],
    }
    temporary = TemporaryDirectory(prefix="efface-") if folder is None else None
    out = Path(temporary.name) if temporary else Path(folder or "")
    with temporary or nullcontext(), nullcontext() if temporary else claim(out, "attack", work, RESULT, force):
        if force:
            discard_attempts(out)
        recall, false_positives, results = attack_erasers(run, loaded, jobs, others, out, progress)
        record = evaluation_record(opened, loaded, judge, [target.name], sampling, len(jobs), seed)
        result = AttackEvaluation(
            entry.name,
            target.name,
            Calibration(judge.name, judge.version, recall, false_positives),
            results,
            config.model_dump(mode="json"),
            record,
            None if temporary else out,
        )
        _write(result, out)
    if file:
        file.log()
    return result


def stored_attack(folder: Path) -> dict[str, Any]:
    """What `AttackEvaluation.to_json` gave for the attack whose complete result is in a folder.

    Raises:
        BadFile: The result cannot be read.
    """
    content = read_json(folder / RESULT, "the result")
    return {name: value for name, value in content.items() if name != "attempts"} | {"out": str(folder)}


def attack_folder(attack: str, erasers: Mapping[str, Eraser], concept: str | None = None) -> Path:
    """The folder of `efface attack` if none is given, named after attack, concept and erasers.

    Args:
        attack: The attack's name.
        erasers: By name.
        concept: The concept to bring back; None for the only one that was erased.

    Raises:
        BadInput: The erasers erase several concepts, and none is named.
    """
    target = _request_of([eraser.request for eraser in erasers.values()], concept).concepts[0]
    return Path(slug(f"attack-{attack}-{target.name}-{'-'.join(erasers)}"))


def _request_of(requests: Sequence[Request], concept: str | None) -> Request:
    """A request of one concept alone: the named one, as the erasers' requests have it, or their only one."""
    known = {one.name: (request, one) for request in requests for one in request.concepts}
    if concept is None and len(known) > 1:
        raise BadInput(f"Name the concept that shall come back (--concept); erased are: {', '.join(known)}.")
    key = name_key(next(iter(known)) if concept is None else concept)
    for request, one in known.values():
        if key in map(name_key, (one.name, *one.aliases)):
            return request.model_copy(update={"concepts": (one,)})
    # Treat an unlisted concept as unsafe too, if an erased one is.
    unsafe = any(one.kind == "unsafe" for _, one in known.values())
    return Request.make([concept or ""], kind="unsafe" if unsafe else "object")


def _jobs_of(file: PromptFile, concept: Concept) -> list[Job]:
    """The prompts of a file, without those that name another concept."""
    names = {"", *map(name_key, (concept.name, *concept.aliases))}
    file.check_column()
    return [job for job in file.jobs if name_key(job.concept) in names]


def _write(result: AttackEvaluation, folder: Path) -> None:
    """Write the result with all attempts, and the texts that succeeded as `efface evaluate --prompts` reads them."""
    with atomic(folder / TEXTS) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("concept_name", "direct_prompt_1", "adversarial_prompt", "evaluation_seed", "eraser"))
        for name, attacked in result.erasers.items():
            rows.writerows(
                [result.concept, attempt.prompt, attempt.text, attempt.seed, name]
                for attempt in attacked.attempts
                if attempt.text and attempt.success
            )
    content = result.to_json()
    del content["out"]
    content["attempts"] = {
        name: [attempt.as_dict() for attempt in attacked.attempts] for name, attacked in result.erasers.items()
    }
    with atomic(folder / RESULT) as temporary:
        temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")
