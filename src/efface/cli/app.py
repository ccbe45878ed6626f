"""The table of commands, in the order of the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from efface.cli.attack import attack_command
from efface.cli.compare import compare_command
from efface.cli.compose import compose_command
from efface.cli.demo import demo_command
from efface.cli.erase import erase_command
from efface.cli.evaluate import evaluate_command
from efface.cli.export import export_command
from efface.cli.fetch import fetch_command
from efface.cli.generate import generate_command
from efface.cli.import_ import import_command
from efface.cli.inspect import inspect_command
from efface.cli.judge import judge_command, judge_train_command
from efface.cli.lists import attacks_command, judges_command, methods_command, models_command, protocols_command
from efface.cli.plan import plan_command
from efface.cli.systems import systems_command


class Command(TyperCommand):
    """A command whose option `--after` takes all values up to the next option, as in `--after a b -o c`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with `--after a b` as `--after a --after b`."""
        expanded: list[str] = []
        takes_values = False
        for index, argument in enumerate(args):
            is_option = argument.startswith("-") and len(argument) > 1
            takes_values = argument == "--after" if is_option else takes_values
            if takes_values and not is_option and args[index - 1] != "--after":
                expanded.append("--after")
            expanded.append(argument)
        return super().parse_args(ctx, expanded)


class Commands(TyperGroup):
    """Commands of one word or two: `judge` and `judge train`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first two words, if there is one; else that of the first word."""
        words = " ".join(args[:2])
        return super().resolve_command(ctx, [words, *args[2:]] if words in self.commands else args)


app = typer.Typer(
    name="efface",
    cls=Commands,
    help="Make a text-to-image model forget a concept, show that it forgot, and restore the concept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Commands": {
        "demo": demo_command,
        "erase": erase_command,
        "generate": generate_command,
        "judge": judge_command,
        "judge train": judge_train_command,
        "evaluate": evaluate_command,
        "attack": attack_command,
        "compare": compare_command,
        "compose": compose_command,
        "export": export_command,
        "import": import_command,
        "inspect": inspect_command,
        "fetch": fetch_command,
        "plan": plan_command,
    },
    "Lists": {
        "models": models_command,
        "methods": methods_command,
        "judges": judges_command,
        "attacks": attacks_command,
        "protocols": protocols_command,
        "systems": systems_command,
    },
}
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, cls=Command, rich_help_panel=panel)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"efface {version('efface')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Make a text-to-image model forget a concept, show that it forgot, and restore the concept."""
