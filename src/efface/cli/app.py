"""The app: every command, in the order of the work."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from efface.cli import (
    attack,
    attacks,
    compose,
    demo,
    erase,
    evaluate,
    export,
    fetch,
    generate,
    import_,
    inspect,
    judge,
    judge_train,
    judges,
    methods,
    models,
    protocols,
)


class Commands(TyperGroup):
    """Commands of one word or two: `judge` takes a folder, `judge train` another."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        words = " ".join(args[:2])
        return super().resolve_command(ctx, [words, *args[2:]] if words in self.commands else args)


app = typer.Typer(
    name="efface",
    cls=Commands,
    help="Make a text-to-image model forget a concept, show that it forgot, and take the forgetting back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

WORK, LISTS = "Work", "What there is"
COMMANDS = {
    WORK: (demo, erase, generate, judge, judge_train, evaluate, attack, compose, export, import_, inspect, fetch),
    LISTS: (models, methods, judges, attacks, protocols),
}
for panel, modules in COMMANDS.items():
    for module in modules:
        name = (
            module.__name__.rpartition(".")[2].rstrip("_").replace("_", " ")
        )  # `import_`, as Python's own word is taken
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
