"""The commands that are interrupted, on the embedded model and with small inputs, so that many trials fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efface.cli.run import run


@dataclass(frozen=True)
class Case:
    """A command to interrupt.

    Attributes:
        name: The command in words.
        command: The arguments. `OUT` stands for the output folder, `IN` for the folder of the inputs.
        items: Pattern of the files in the output folder that are computed one by one and never again.
        copied: A folder of the inputs that is copied into the output folder first.
    """

    name: str
    command: str
    items: str
    copied: str | None = None

    @property
    def has_workers(self) -> bool:
        """Whether several processes share the work."""
        return "--workers" in self.command

    def arguments(self, inputs: Path, out: Path) -> list[str]:
        """The arguments with the paths of a trial."""
        return [word.replace("OUT", str(out)).replace("IN", str(inputs)) for word in self.command.split()]


_ERASER, _FEW = "IN/erasers/cat-uce.safetensors", "--steps 2 --batch-size 2"
_TWO = "--workers 2"
#: Every command that writes, except `efface fetch`, which needs the network.
CASES = (
    Case("erase", "erase cat horse --to dog -o OUT/a.safetensors", "*.safetensors"),
    Case("erase --method esd", "erase cat --method esd -s iterations=6 -o OUT/a.safetensors", "*.safetensors"),
    Case("generate", f"generate --prompts IN/prompts.csv -n 3 {_FEW} -o OUT", "*.png"),
    Case("generate --classes", f"generate --classes IN/prompts.csv -n 2 {_FEW} -o OUT", "*/*.png"),
    Case("generate --grid", f"generate cat dog -n 2 {_FEW} --eraser {_ERASER} --grid OUT/g.png -o OUT/i", "i/*/*.png"),
    Case("judge", "judge IN/images -q cat -q dog -o OUT/v.parquet", "*.parquet"),
    Case("judge train", "judge train IN/pictures -s epochs=4 -s size=32 -o OUT", "judge.json"),
    Case("evaluate", f"evaluate {_ERASER} -n 2 {_FEW} -o OUT", "images/*/*.png"),
    Case("evaluate --stage judge", f"evaluate {_ERASER} -n 2 {_FEW} --stage judge -o OUT", "*/*/*.png", "stage"),
    Case(
        "evaluate --prompts",
        f"evaluate IN/erasers --prompts IN/prompts.csv --per-prompt 1 {_FEW} -o OUT",
        "images/*/*.png",
    ),
    Case("attack", f"attack {_ERASER} --attack random_prefix -s prefixes=2 -n 3 {_FEW} -o OUT", "**/*.png"),
    Case("export --format kohya", f"export {_ERASER} --format kohya -o OUT/k.safetensors", "*.safetensors"),
    Case("export --format esd", f"export {_ERASER} --format esd -o OUT/e.pt", "*.pt"),
    Case("export --format single-file", f"export {_ERASER} --format single-file -o OUT/s.safetensors", "*.safetensors"),
    Case("export --format diffusers", f"export {_ERASER} --format diffusers -o OUT/m", "m/*/*"),
    Case("import", "import IN/kohya.safetensors --concept cat -o OUT/i.safetensors", "*.safetensors"),
    Case("compose", f"compose {_ERASER} IN/erasers/dog-uce.safetensors -o OUT/c.safetensors", "*.safetensors"),
    Case("inspect --certify", f"inspect {_ERASER} --certify -o OUT/c.safetensors", "*.safetensors"),
    Case("demo", "demo -n 2 -o OUT", "images/*/*.png"),
    Case("erase --each", f"erase --each IN/prompts.csv {_TWO} -o OUT", "*.safetensors"),
    Case(
        "generate --each-eraser",
        f"generate --prompts IN/prompts.csv --each-eraser IN/erasers -n 2 --steps 2 {_TWO} -o OUT",
        "*/*/*.png",
    ),
    Case("judge --prompts", f"judge OUT --prompts IN/prompts.csv {_TWO}", "verdicts/**/*.parquet", "sets"),
)
_PROMPTS = "prompt,concept,evaluation_seed\na cat,cat,1\na dog,dog,2\na horse on grass,horse,3\n"
#: The commands that write the inputs, by the names of their outputs; a later one may read an earlier one's output.
_INPUTS = {
    "erasers": "erase --each IN/prompts.csv -o IN/erasers",
    "pictures": "generate --classes IN/prompts.csv -n 4 --steps 2 -o IN/pictures",
    "images": "generate --prompts IN/prompts.csv -n 4 --steps 2 -o IN/images",
    "sets": "generate --prompts IN/prompts.csv --each-eraser IN/erasers -n 2 --steps 2 -o IN/sets",
    "kohya": f"export {_ERASER} --format kohya -o IN/kohya.safetensors",
    "stage": f"evaluate {_ERASER} -n 2 {_FEW} --stage generate -o IN/stage",
}


def prepare(inputs: Path, cases: Sequence[Case]) -> None:
    """Write the inputs of some cases.

    Args:
        inputs: A new folder.
        cases: The cases.
    """
    inputs.mkdir(parents=True)
    (inputs / "prompts.csv").write_text(_PROMPTS)
    read = " ".join(f"{case.command} IN/{case.copied}" for case in cases)
    needed: list[str] = []
    for name, command in reversed(_INPUTS.items()):
        if f"IN/{name}" in read:
            needed.insert(0, command)
            read += command
    for command in needed:
        code = run(Case("", command, "").arguments(inputs, inputs))
        assert code == 0, command
