"""`efface generate`: prompts to a folder of images, with or without an eraser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.options import BatchSize, ConceptColumn, Device, Eta, Json, Model, Sampler, Seed, Steps
from efface.errors import BadInput


def generate_command(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="Prompts.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="A CSV with a prompt column, JSON, or one prompt per line."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", metavar="FILE.csv", help="Generate N images per class of a CSV, in a folder each."),
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
    strength: Annotated[
        float,
        typer.Option("--strength", metavar="X", help="Strength of the eraser: 0 changes nothing, 1 erases fully."),
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
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Attach an eraser that was made for another model; replaces no image.")
    ] = False,
    model: Model = "emoji",
    device: Device = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Generate images into a folder with metadata.jsonl. Image i of a prompt has seed + i, whatever the batch size.

    Images that the folder already contains are not generated again, so an interrupted run resumes.
    """
    from efface.cli.output import Screen
    from efface.files import slug

    screen = Screen(json)
    if classes is not None:
        from efface.cli.generate_classes import run_classes

        unused = {"prompts": prompts, "--prompts": prompts_file, "--only": only, "--file-names": file_names != "prompt"}
        settings = {"strength": strength, "steps": steps, "guidance": guidance, "sampler": sampler, "eta": eta}
        run_classes(
            screen,
            classes,
            out,
            unused,
            n=n,
            numbered=numbered,
            concept_column=concept_column,
            model=model,
            eraser=eraser,
            seed=seed,
            device=device,
            force=force,
            batch_size=batch_size,
            **settings,
        )
        return
    if numbered:
        raise BadInput("--numbered names the folders of classes; give --classes FILE.csv, or leave it out.")
    if bool(prompts) == bool(prompts_file):
        raise BadInput("Give prompts, or a file of them with --prompts; one of the two.")
    work = prompts_file.stem if prompts_file else (prompts or [""])[0]
    folder = out or Path("-".join(slug(name) for name in (work, *(path.stem for path in eraser or []))))

    from efface import generate

    with screen.progress() as progress:
        result = generate(
            prompts_file or prompts or [],
            concept_column=concept_column,
            only=only,
            model=model,
            eraser=eraser,
            strength=strength,
            n=n,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            eta=eta,
            seed=seed,
            batch_size=batch_size,
            file_names=file_names,
            device=device,
            folder=folder,
            force=force,
            progress=progress,
        )
    screen.say(f"{folder}: {len(result.rows)} images in {result.seconds:.1f} s")
    reasons = [image.error for image in result.outcomes if image.error is not None]
    if reasons:
        screen.say(f"{len(reasons)} images could not be generated: {reasons[0]}")
    screen.answer(result.to_json())
    if reasons:
        raise typer.Exit(1)
