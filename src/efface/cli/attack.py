"""`efface attack`: how often an attack brings a concept back, prompt by prompt."""

import csv
import json as js
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efface.cli.options import BatchSize, Device, Force, Json, Model, Sampler, Seed, Steps, device_of, scalar_options
from efface.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from efface.generate import Job
    from efface.judges import Judge
    from efface.models import Model as Opened
    from efface.protocols.attacked import Attacked
    from efface.request import Request

RESULT, FOUND = "attack.json", "adversarial.csv"


def command(
    erasers: Annotated[
        list[str] | None,
        typer.Argument(metavar="ERASER...", help="Files of erasers, folders of them, or patterns in quotes."),
    ] = None,
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
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="See efface judges (default: the embedded model's own)."),
    ] = None,
    trust_torchscript: Annotated[
        bool, typer.Option("--trust-torchscript", help="Let a judge's TorchScript file, which is a program, run.")
    ] = False,
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
    from efface.attacks import ATTACKS
    from efface.cli.eraser_files import eraser_files
    from efface.cli.output import Screen, claim, slug

    screen = Screen(json)
    if not erasers:
        raise BadInput("Nothing to attack: give the file of an eraser; efface erase makes one.")
    files, entry = eraser_files(erasers), ATTACKS.get(attack)
    config = entry.config.model_validate(scalar_options(settings or []))
    if judge is None and model != "emoji":
        raise BadInput(f"Choose a --judge for {model}, e.g. --judge clip:openai/clip-vit-base-patch32.")

    from efface import Eraser, open_model
    from efface.base_check import check_base
    from efface.cli.evaluation import alternatives, short
    from efface.generate import Sampling
    from efface.judges import open_judge
    from efface.protocols.attack_rates import Run, attacked
    from efface.protocols.facts import provenance

    loaded = {name: Eraser.load(path) for name, path in files.items()}
    request = _request([eraser.request for eraser in loaded.values()], concept)
    aim = request.concepts[0]
    opened = open_model(model, device_of(device))
    for eraser in loaded.values():
        check_base(eraser, opened, force=False)
    asked = {"steps": steps, "sampler": sampler, "batch_size": batch_size}
    sampling = replace(Sampling.default(opened), **{key: value for key, value in asked.items() if value is not None})
    told = [request, *(eraser.request for eraser in loaded.values())]
    chosen = open_judge(judge or "emoji", alternatives(told, prompts), str(opened.device), trust_torchscript)
    jobs = _jobs(opened, chosen, request, prompts, n, seed)
    folder = out or Path(slug(f"attack-{attack}-{aim.name}-{'-'.join(files)}"))
    work: dict[str, Any] = {
        "erasers": {name: eraser.hash for name, eraser in loaded.items()},
        "model": model,
        "attack": {attack: config.model_dump(mode="json")},
        "concept": aim.name,
        "judge": [chosen.name, chosen.version],
        "sampling": [sampling.sampler, sampling.steps],
        "jobs": [[job.prompt, job.seed, job.guidance] for job in jobs],
    }
    kept = keep_images or aim.kind != "unsafe"
    with claim(folder, "attack", work, RESULT, force), screen.progress() as progress:
        run = Run(opened, chosen, entry, config, aim.name, jobs, sampling, folder, aim.aliases, kept, progress)
        base, found = attacked(run, loaded)
        answer: dict[str, Any] = {
            "attack": attack,
            "concept": aim.name,
            "judge": {"name": chosen.name, "version": chosen.version},
            "base": base and base.as_dict(),
            "erasers": {name: of.as_dict() for name, of in found.items()},
            "settings": config.model_dump(mode="json"),
            "provenance": provenance(opened, loaded, chosen, [aim.name], sampling, len(jobs), seed),
        }
        _write(folder, answer, found, aim.name)
    screen.say(f"{aim.name}: without an eraser in {base or 'no image that the judge answers about'}")
    rows = [[name, *map(short, of.rates.values()), str(len(of.attempts)), str(of.errors)] for name, of in found.items()]
    screen.table(("rate, %", "pre_asr", "asr", "fresh_asr", "prompts", "errors"), rows)
    screen.say("pre_asr: no attack needed; asr: in any image of the search; fresh_asr: in one image at another seed")
    screen.say(f"{folder / RESULT}, and the prompts that were found in {folder / FOUND}")
    screen.answer(answer | {"out": str(folder)})
    if any(of.errors for of in found.values()):
        raise typer.Exit(1)


def _request(requests: "Sequence[Request]", concept: str | None) -> "Request":
    """Asks for one concept alone: the one that is named, as the erasers' requests have it, or their only one."""
    from efface.request import Request

    known = {one.name: (request, one) for request in requests for one in request.concepts}
    if concept is None and len(known) > 1:
        raise BadInput(f"Say which concept shall come back (--concept); erased are: {', '.join(known)}.")
    name = next(iter(known)) if concept is None else concept
    if name not in known:
        return Request.make([name])
    request, one = known[name]
    return request.model_copy(update={"concepts": (one,)})


def _jobs(model: "Opened", judge: "Judge", request: "Request", prompts: Path | None, n: int, seed: int) -> "list[Job]":
    """The prompts of the file, those that name another concept left out; or those by which `err` asks for it."""
    from efface.generate import read_prompts
    from efface.protocols.err import plan

    name = request.concepts[0].name
    if prompts:
        return [job for job in read_prompts(prompts, seed) if job.concept in ("", name)][:n]
    return [probe.job for probe in plan(model, judge, request, n, seed) if probe.metric == "forget"]


def _write(folder: Path, answer: "Mapping[str, Any]", found: "Mapping[str, Attacked]", concept: str) -> None:
    from efface.files import atomic

    with atomic(folder / FOUND) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("concept", "prompt", "evaluation_seed", "eraser", "success"))
        for name, of in found.items():
            rows.writerows([concept, it.found, it.seed, name, it.success] for it in of.attempts if it.found)
    with atomic(folder / RESULT) as temporary:
        temporary.write_text(js.dumps(answer, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
