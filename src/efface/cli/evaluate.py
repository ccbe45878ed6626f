"""`efface evaluate`: how well erasers forget, and what they retain; and the printed form of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efface.cli.options import (
    BatchSize,
    ConceptColumn,
    Device,
    Erasers,
    Eta,
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
from efface.cli.runtime import with_runtime
from efface.errors import BadInput

if TYPE_CHECKING:
    from efface.cli.output import Screen
    from efface.metrics.base import Measured
    from efface.protocols import Evaluation, Result
    from efface.protocols.results import Destinations


@with_runtime(generates=True)
def evaluate_command(
    erasers: Erasers = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", metavar="NAME", help="See efface protocols.")] = "err",
    judge: Judge = None,
    trust_torchscript: TrustTorchscript = False,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="What to generate: a CSV, or one prompt a line.")
    ] = None,
    concept_column: ConceptColumn = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Pictures or statistics that a protocol reads.")
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            "--filter", metavar="REGEX", help="The checkpoints of the folder to use, of any format that import reads."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="See efface attacks; may be repeated."),
    ] = None,
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE.yaml", help="Ask about this instead of what was erased.")
    ] = None,
    propose_adjacent: Annotated[
        bool, typer.Option("--propose-adjacent", help="Print what may be near what was erased, and do nothing else.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting of the protocol.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", min=2, help="Images a concept (default: the protocol's).")
    ] = None,
    per_prompt: Annotated[
        int | None,
        typer.Option("--per-prompt", metavar="N", min=1, help="Of err: N images of each prompt of --prompts alone."),
    ] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    eta: Eta = None,
    batch_size: BatchSize = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="DIR", help="Images of the unedited model, to use instead of generating them."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="NAME", help="generate, or judge what was generated; default: both."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where the report goes.")] = None,
    force: Force = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Generate images with and without each eraser, judge, and write a report. Several erasers are compared.

    Run again with the same folder, an interrupted evaluation resumes, and a complete one is reported.

    Example: efface evaluate cat-esd.training --judge clip, which compares the checkpoints of a training
    """
    from efface.api.erasers import eraser_files
    from efface.cli.finished import complete_work
    from efface.cli.output import Screen
    from efface.files import slug
    from efface.protocols import PROTOCOLS
    from efface.report.document import stored_evaluation

    screen = Screen(json)
    options = {**scalar_options(settings or []), **({} if per_prompt is None else {"per_prompt": per_prompt})}
    if not erasers:
        raise BadInput("Nothing to evaluate: give the file of an eraser; efface erase makes one.")
    files = eraser_files(erasers, filter)
    PROTOCOLS.get(protocol)  # an unknown name is an error before anything is loaded

    import efface

    if propose_adjacent:
        _print_proposed(screen, efface.propose_adjacent(files, model=model, request=request, device=device))
        return
    folder = out or Path(slug(f"{protocol}-{'-'.join(files)}"))
    with complete_work(screen, stored_evaluation), screen.progress() as progress:
        evaluation = efface.evaluate(
            files,
            protocol,
            model=model,
            judge=judge,
            n=n,
            seed=seed,
            prompts=prompts,
            concept_column=concept_column,
            data=data,
            settings=options,
            attacks=attack,
            request=request,
            steps=steps,
            sampler=sampler,
            eta=eta,
            batch_size=batch_size,
            trust_torchscript=trust_torchscript,
            base=base,
            stage=stage,
            device=device,
            folder=folder,
            force=force,
            progress=progress,
        )
    if stage == "generate":
        screen.say(f"{folder} has the images of {', '.join(evaluation.erasers)}; now run this with --stage judge.")
    else:
        print_evaluation(screen, evaluation)
        screen.say(f"Report: {evaluation.report}")
    screen.answer(evaluation.to_json())
    if evaluation.errors:
        raise typer.Exit(1)


def _print_proposed(screen: Screen, proposed: dict[str, list[str]]) -> None:
    """Near words of each concept, as lines for a request."""
    screen.say("Near by their embeddings, which reflect spelling too; copy what is really near into a request:")
    screen.say("concepts:")
    for name, words in proposed.items():
        screen.say(f"- {{name: {name}, adjacent: [{', '.join(words)}]}}")
    screen.say("and evaluate with --request FILE.yaml")
    screen.answer({"adjacent": proposed})


def print_evaluation(screen: Screen, evaluation: Evaluation) -> None:
    """Print the headline and the numbers of each eraser, the comparisons, and the judge's calibration."""
    from efface.report.headline import headline
    from efface.report.words import erasers_of, interval

    for name, result in erasers_of(evaluation).items():
        screen.say()
        screen.heading(f"{name}: {headline(evaluation, name).text}")
        _print_result(screen, result)
    screen.say()
    _print_comparisons(screen, evaluation)
    if len(evaluation.ranking) > 1:
        order = ", ".join(evaluation.ranking)
        screen.say(f"ranking by {evaluation.overall}, of equals by weight change: {order}")
    elif evaluation.overall and sum(evaluation.overall in result.metrics for result in evaluation.erasers.values()) > 2:
        screen.say(
            f"no ranking by {evaluation.overall}: the erasers differ in their concepts or in the rates behind it"
        )
    judge = evaluation.judge
    screen.say(
        f"judge {judge.name}: recall {interval(judge.recall)}, false positives {interval(judge.false_positive_rate)}"
    )
    if evaluation.errors:
        screen.say(f"{evaluation.errors} images have no verdict and count in no rate; the report lists them.")


def _print_result(screen: Screen, result: Result) -> None:
    from efface.report.words import interval

    rows = [
        [
            metric,
            percent_with_interval(result.base.get(metric)),
            percent_with_interval(rate),
            percent_with_interval(result.change.get(metric), "+"),
            str(rate.n),
        ]
        for metric, rate in result.rates.items()
    ]
    if rows:
        screen.table(("rate, %", "before", "after", "change", "images"), rows)
    _print_scores(screen, result)
    for metric, doubts in result.undecided.items():
        total = doubts + (result.metrics[metric].n if metric in result.metrics else 0)
        screen.say(f"{metric}: the judge is undecided about {doubts} of {total} images, which are left out")
    for attack, rate in result.attacks.items():
        screen.say(f"adversarial, by {attack}: {percent_with_interval(rate)} of {rate.n} images")
    if result.agreement:
        screen.say(f"answers that equal those on the unedited model's images: {interval(result.agreement)}")
    if result.weight_change is not None:
        screen.say(f"weight change: {result.weight_change:.3g} a parameter")
    for metric, destinations in result.destinations.items():
        for concept, places in _places(destinations):
            screen.say(f"{metric}: images for {concept} show: {places}")


def _print_comparisons(screen: Screen, evaluation: Evaluation) -> None:
    """Erasers against each other, if there are several."""
    from efface.report.words import chance

    rows = [
        [
            f"{row.second} minus {row.first}",
            row.metric,
            percent_with_interval(row.difference, "+"),
            chance(row.difference.p),
            str(row.difference.n),
        ]
        for row in evaluation.comparisons
    ]
    if rows:
        screen.heading("eraser against eraser, on the same prompts and seeds")
        screen.table(("erasers", "rate, %", "difference", "p", "pairs"), rows)
        screen.say(
            "p (McNemar, exact) assumes independent images, intervals resample prompts: report a difference only if "
            "both agree"
        )


def _print_scores(screen: Screen, result: Result) -> None:
    """Scores and distances, a table for each extractor: numbers of two extractors cannot be compared."""
    for extractor in dict.fromkeys(number.extractor for number in result.scores.values()):
        rows = [
            [
                name,
                _with_interval(result.base.get(name)),
                _with_interval(number),
                _with_interval(result.change.get(name), "+"),
                str(number.n),
            ]
            for name, number in result.scores.items()
            if number.extractor == extractor
        ]
        screen.table((f"by {extractor}", "before", "after", "change", "images"), rows)


def percent_with_interval(rate: Measured | None, sign: str = "") -> str:
    """A rate, or with a sign a difference, in percent with its interval, in short; a dash for None.

    Args:
        rate: The rate.
        sign: "+" to show the sign of positive numbers.
    """
    if rate is None:
        return "–"
    value, low, high = (f"{100 * share:{sign}.1f}" for share in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def _with_interval(score: Measured | None, sign: str = "") -> str:
    """A score or distance with its interval, in short; a dash for None."""
    if score is None:
        return "–"
    value, low, high = (f"{number:{sign}.3g}" for number in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def _places(destinations: Destinations) -> list[tuple[str, str]]:
    """What the images of each erased concept show, the most frequent first."""
    from efface.report.words import percent

    rows: list[tuple[str, str]] = []
    for concept, counts in destinations.items():
        total = sum(counts.values())
        ranked = sorted(((count, place) for place, count in counts.items() if count), reverse=True)
        if ranked:
            rows.append((concept, ", ".join(f"{place} {percent(count / total)}" for count, place in ranked)))
    return rows
