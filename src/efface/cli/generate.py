"""`efface generate`: prompts to a folder of images, with or without an eraser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.options import (
    BatchSize,
    ConceptColumn,
    Device,
    Eta,
    Gpus,
    Json,
    Model,
    ReportTo,
    Sampler,
    Seed,
    Steps,
    Workers,
)
from efface.cli.runtime import with_runtime
from efface.errors import BadInput


@with_runtime(generates=True)
def generate_command(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="Prompts.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="A CSV with a prompt column, JSON, or one prompt per line."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Generate N images per class, in a folder each: a CSV with a column concept or artist, or a .txt file "
            "with one name per line.",
        ),
    ] = None,
    numbered: Annotated[
        bool, typer.Option("--numbered", help="With --classes: name the folders 0, 1, 2 and so on.")
    ] = False,
    concept_column: ConceptColumn = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="CONCEPT", help="Use only the rows of this concept in the file.")
    ] = None,
    eraser: Annotated[
        list[Path] | None,
        typer.Option(
            "--eraser",
            "-e",
            metavar="FILE",
            help="An eraser, or any file that import reads; several are composed.",
        ),
    ] = None,
    each_eraser: Annotated[
        Path | None,
        typer.Option(
            "--each-eraser",
            metavar="DIR",
            help="With --prompts FILE.csv: each eraser of a folder, into OUT/EDITED CONCEPT/PROMPTED CONCEPT.",
        ),
    ] = None,
    workers: Workers = None,
    gpus: Gpus = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            "--grid",
            metavar="FILE.png",
            help="Also one picture: a row of the unedited model, and a row of each --eraser alone.",
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="X",
            help="Strength of the eraser: 0 changes nothing, 1 is the eraser as it is, -1 the reverse.",
        ),
    ] = 1.0,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Images per prompt.")] = 1,
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option("--guidance", metavar="G", help="Guidance scale.")] = None,
    sampler: Sampler = None,
    eta: Eta = None,
    batch_size: BatchSize = None,
    file_names: Annotated[
        str,
        typer.Option("--file-names", metavar="NAME", help="prompt, or case: image i of case_number 12 is 12_i.png."),
    ] = "prompt",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")] = None,
    report_to: ReportTo = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="Replace images of another run, and --grid; attach an eraser of another model."
        ),
    ] = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Generate images into a folder with metadata.jsonl. Image i of a prompt has seed + i, whatever the batch size.

    Images that the folder already contains are not generated again, so an interrupted run resumes.
    """
    from efface.cli.generate_each import run_each
    from efface.cli.output import Screen
    from efface.crew import refuse_several
    from efface.files import slug

    screen = Screen(json)
    settings: dict[str, Any] = {
        "model": model,
        "n": n,
        "strength": strength,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "eta": eta,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "force": force,
    }
    if report_to and (each_eraser or classes or grid):
        raise BadInput("--report-to logs the images of one folder; leave out --each-eraser, --classes and --grid.")
    if each_eraser is not None:
        if not prompts_file or prompts or eraser or classes or grid or only or file_names != "prompt":
            raise BadInput(
                "--each-eraser takes a dataset with --prompts FILE.csv, and no other prompt, --eraser, --classes, "
                "--grid, --only or --file-names."
            )
        folder = out or Path(f"{slug(prompts_file.stem)}-{slug(each_eraser.name)}")
        run_each(
            context.obj,
            screen,
            prompts_file,
            each_eraser,
            folder,
            workers,
            gpus,
            concept_column=concept_column,
            **settings,
        )
        return
    refuse_several(workers, gpus, "--each-eraser DIR")
    if classes is not None:
        from efface.cli.generate_classes import run_classes

        unused = {"prompts": prompts, "--prompts": prompts_file, "--only": only, "--grid": grid}
        unused |= {"--file-names": file_names != "prompt"}
        settings |= {"numbered": numbered, "concept_column": concept_column, "eraser": eraser}
        run_classes(screen, classes, out, unused, **settings)
        return
    if numbered:
        raise BadInput("--numbered names the folders of classes; give --classes FILE.csv, or leave it out.")
    if bool(prompts) == bool(prompts_file):
        raise BadInput("Give prompts, or a file of them with --prompts; one of the two.")
    work = prompts_file.stem if prompts_file else (prompts or [""])[0]
    folder = out or Path("-".join(slug(name) for name in (work, *(path.stem for path in eraser or []))))

    from efface import generate, generate_grid

    chosen = prompts_file or prompts or []
    settings |= {"only": only, "concept_column": concept_column, "file_names": file_names, "folder": folder}
    with screen.progress() as progress:
        if grid is None:
            result = generate(chosen, eraser=eraser, report_to=report_to, progress=progress, **settings)
            images, where = result.outcomes, str(folder)
        else:
            result = generate_grid(chosen, grid, eraser or (), progress=progress, **settings)
            images = [image for row in result.rows.values() for image in row.outcomes]
            where = f"{grid}{', which exists already,' if result.existed else ''} and {folder}"
    reasons = [image.error for image in images if image.error is not None]
    screen.say(f"{where}: {len(images) - len(reasons)} images in {result.seconds:.1f} s")
    if reasons:
        screen.say(f"{len(reasons)} images could not be generated: {reasons[0]}")
    screen.answer(result.to_json())
    if reasons:
        raise typer.Exit(1)
