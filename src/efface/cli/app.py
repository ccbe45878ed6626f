"""The app: every command, in the order of the work."""

from typing import Annotated

import typer

from efface.cli import (
    compose,
    demo,
    erase,
    evaluate,
    export,
    generate,
    import_,
    inspect,
    judge,
    judges,
    methods,
    models,
    protocols,
)

app = typer.Typer(
    name="efface",
    help="Make a text-to-image model forget a concept, show that it forgot, and take the forgetting back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

WORK, LISTS = "Work", "What there is"
COMMANDS = {
    WORK: (demo, erase, generate, judge, evaluate, compose, export, import_, inspect),
    LISTS: (models, methods, judges, protocols),
}
for panel, modules in COMMANDS.items():
    for module in modules:
        name = module.__name__.rpartition(".")[2].rstrip("_")  # `import_`, as Python's own word is taken
        app.command(name, rich_help_panel=panel)(module.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"efface {version('efface')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Make a text-to-image model forget a concept, show that it forgot, and take the forgetting back."""
