"""`efface attack`: how often an attack brings a concept back, prompt by prompt."""

from __future__ import annotations

import csv
import json as js
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli.options import (
    BatchSize,
    Device,
    Erasers,
    Force,
    Json,
    Judge,
    Model,
    Sampler,
    Seed,
    Steps,
    TrustTorchscript,
    scalar_options,
)
from efface.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from efface.generation import Job
    from efface.protocols.attacked import Attacked
    from efface.request.record import Concept, Request

RESULT, FOUND = "attack.json", "adversarial.csv"


def attack_command(
    erasers: Erasers = None,
    attack: Annotated[str, typer.Option("--attack", metavar="NAME", help="See efface attacks.")] = "unlearndiff",
    concept: Annotated[
        str | None, typer.Option("--concept", metavar="C", help="What shall come back (default: what was erased).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the attack.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="What to begin with: a CSV, or one prompt a line.")
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Prompts, at most.")] = 20,
    judge: Judge = None,
    trust_torchscript: TrustTorchscript = False,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Keep the images of an unsafe theme too.")] = False,
    steps: Steps = None,
    sampler: Sampler = None,
    batch_size: BatchSize = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where it all goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Attack each eraser: the share of prompts for which the concept comes back. Each eraser is attacked alone.

    Run again with the same folder, an interrupted attack goes on where it was. What it finds is in adversarial.csv,
    which efface evaluate --prompts reads.

    Example: efface attack cat.safetensors --attack unlearndiff --concept cat -n 8
    """
    from efface.api.arguments import judge_name, override, resolve_device
    from efface.api.erasers import eraser_files
    from efface.attacks import ATTACKS
    from efface.cli.output import Screen
    from efface.files import slug
    from efface.work_folder import claim

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to attack: give the file of an eraser; efface erase makes one.")
    files, entry = eraser_files(erasers), ATTACKS.get(attack)
    config = entry.config.model_validate(scalar_options(settings or []))
    judge = judge_name(model, judge)

    from efface import Eraser, open_model
    from efface.cli.evaluation import alternatives, short
    from efface.eraser.base import check_base
    from efface.generation import Sampling
    from efface.judges import open_judge
    from efface.protocols.attack_rates import Run, attacked
    from efface.protocols.err import plan
    from efface.protocols.evaluation_record import provenance, reading_alike
    from efface.report.words import interval

    loaded = {name: Eraser.load(path) for name, path in files.items()}
    told = [eraser.request for eraser in loaded.values()]
    request = _request(told, concept)
    aim = request.concepts[0]
    opened = open_model(model, resolve_device(device))
    for eraser in loaded.values():
        check_base(eraser, opened, force=False)
    sampling = override(Sampling.default(opened), steps=steps, sampler=sampler, batch_size=batch_size)
    sampling = reading_alike(sampling, loaded)
    words = alternatives([request, *told], prompts)
    chosen = open_judge(judge, words, str(opened.device), trust_torchscript)
    probes = plan(opened, chosen, request, n, seed)
    others = [probe.job for probe in probes if probe.wanted][:n]
    jobs = _jobs(prompts, aim, seed)[:n] if prompts else [p.job for p in probes if p.metric == "forget"]
    folder = out or Path(slug(f"attack-{attack}-{aim.name}-{'-'.join(files)}"))
    work: dict[str, Any] = {
        "erasers": {name: eraser.hash for name, eraser in loaded.items()},
        "model": model,
        "device": str(opened.device),
        "attack": {attack: config.model_dump(mode="json")},
        "concept": aim.name,
        "judge": [chosen.name, chosen.version],
        "sampling": [sampling.sampler, sampling.steps],
        "jobs": [[job.prompt, job.seed, job.guidance] for job in jobs],
    }
    kept = keep_images or aim.kind != "unsafe"
    with claim(folder, "attack", work, RESULT, force), screen.progress() as progress:
        if force:
            rmtree(folder / "attempts", ignore_errors=True)
        run = Run(opened, chosen, entry, config, aim.name, jobs, sampling, folder, others, aim.aliases, kept, progress)
        calibration, found = attacked(run, loaded)
        answer: dict[str, Any] = {
            "attack": attack,
            "concept": aim.name,
            "judge": calibration.as_dict(),
            "erasers": {name: of.as_dict() for name, of in found.items()},
            "settings": config.model_dump(mode="json"),
            "provenance": provenance(opened, loaded, chosen, [aim.name], sampling, len(jobs), seed),
        }
        _write(folder, answer, found, aim.name)
    screen.say(f"{aim.name}, without an eraser: {interval(calibration.recall)}")
    rows = [[name, *map(short, of.rates.values()), str(len(of.attempts)), str(of.errors)] for name, of in found.items()]
    screen.table(("rate, %", "pre_asr", "asr", "fresh_asr", "prompts", "errors"), rows)
    screen.say("pre_asr: no attack needed; asr: in any image of the search; fresh_asr: in one image at another seed")
    screen.say(f"judge {chosen.name}: false positives {interval(calibration.false_positive_rate)}")
    screen.say(f"{folder / RESULT}, and the prompts that were found in {folder / FOUND}")
    screen.answer(answer | {"out": str(folder)})
    if any(of.errors for of in found.values()):
        raise typer.Exit(1)


def _request(requests: Sequence[Request], concept: str | None) -> Request:
    """Asks for one concept alone: the one that is named, as the erasers' requests have it, or their only one."""
    from efface.protocols.probes.file import key
    from efface.request.record import Request

    known = {one.name: (request, one) for request in requests for one in request.concepts}
    if concept is None and len(known) > 1:
        raise BadInput(f"Say which concept shall come back (--concept); erased are: {', '.join(known)}.")
    wanted = key(next(iter(known)) if concept is None else concept)
    for request, one in known.values():
        if wanted in map(key, (one.name, *one.aliases)):
            return request.model_copy(update={"concepts": (one,)})
    # What nobody erased is as delicate as what somebody did.
    delicate = any(one.kind == "unsafe" for _, one in known.values())
    return Request.make([concept or ""], kind="unsafe" if delicate else "object")


def _jobs(prompts: Path, concept: Concept, seed: int) -> list[Job]:
    """The prompts of a file, without those that name another concept."""
    from efface.generation import read_prompts
    from efface.protocols.probes.file import key

    names = {"", *map(key, (concept.name, *concept.aliases))}
    return [job for job in read_prompts(prompts, seed) if key(job.concept) in names]


def _write(folder: Path, answer: Mapping[str, Any], found: Mapping[str, Attacked], concept: str) -> None:
    """The answer with all attempts; and the texts that succeeded, as `efface evaluate` reads them."""
    from efface.files import atomic

    with atomic(folder / FOUND) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("concept_name", "direct_prompt_1", "adversarial_prompt", "evaluation_seed", "eraser"))
        for name, of in found.items():
            rows.writerows(
                [concept, it.prompt, it.found, it.seed, name] for it in of.attempts if it.found and it.success
            )
    attempts = {name: [asdict(attempt) for attempt in of.attempts] for name, of in found.items()}
    with atomic(folder / RESULT) as temporary:
        text = js.dumps({**answer, "attempts": attempts}, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
