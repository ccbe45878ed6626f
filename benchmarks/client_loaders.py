"""Exported files in the loaders of other programs: keys that match, and the largest difference of the weights.

    python benchmarks/client_loaders.py                                                   the files alone
    python benchmarks/client_loaders.py --client comfyui CHECKOUT --revision COMMIT --python INTERPRETER
    python benchmarks/client_loaders.py --client old_diffusers --python INTERPRETER

The clients are comfyui, forge, a1111, sd_scripts (their checkouts are not fetched; `clients/NAME.py` names what a
checkout needs) and old_diffusers. INTERPRETER has the client's packages. The script exports erasers of tiny SD 1, SD 2
and SDXL models, which have the published layer counts and small widths, and runs `clients/NAME.py` on the files:

keys        the tensors of the file, and those that the client used
change      the largest change of a weight by the eraser, over the weights that the client loads from such a file
difference  the largest difference between the client's weight after loading and the weight of the baked eraser; for
            `diffusers` folders between the pixels (0 to 1) of the image of the opened folder and of the erased model

Erasers: `text` is UCE's; `low-rank` changes all matrices of blocks and text encoders; `encoder` some of the text
encoders' matrices; `all` each weight, bias and norm of the U-Net; `all-rank-4` the same with `--rank 4`, where the
expected weights are those that efface reads from the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402
from clients.common import RESULT  # noqa: E402

FAMILIES = ("sd1", "sd2", "sdxl")

CLIENTS = {
    "comfyui": "ComfyUI", "forge": "Forge", "a1111": "A1111", "sd_scripts": "sd-scripts",
    "old_diffusers": "diffusers",
}  # fmt: skip
LIMITS = {"float32": 1e-5, "float16": 1e-3}
LEVEL = 1 / 255  # of a pixel, the limit for images of models in float16
WORK = Path("/tmp/efface-client-loaders")


def is_right(row: dict[str, Any]) -> bool:
    """Whether all keys matched and the weights are the expected ones."""
    limit = LEVEL if row["format"] == "diffusers" and row["dtype"] == "float16" else LIMITS[row["dtype"]]
    return row["matched"] == row["keys"] and row["difference"] <= limit


def page(content: dict[str, Any]) -> pages.Page:
    rows = [{**row, "client": name} for name, client in content.items() for row in client["rows"]]
    wrong = [row for row in rows if not is_right(row)]
    clients = ", ".join(f"{CLIENTS[name]} ({client['revision']})" for name, client in content.items())
    finding = (
        f"{len(rows) - len(wrong)} of {len(rows)} exported files load with all keys and with the weights of the eraser "
        f"in the loaders of other programs: {clients}."
    )
    table = pages.table(
        ["client", "model", "eraser", "format", "type", "matched of keys", "change", "difference", "note"],
        [
            [
                CLIENTS[row["client"]], row["family"], row["eraser"], row["format"], row["dtype"],
                f"{row['matched']} of {row['keys']}" if row["keys"] else "", f"{row['change']:.2g}",
                f"{row['difference']:.1e}", row["note"],
            ]
            for row in rows
        ],
    )  # fmt: skip
    limits = (
        "The limits are a difference of 1e-5 in float32 and of 1e-3 in float16, for an image of a model in float16 one "
        "level of 255, with all keys matched. Not in the table: differences (`.diff`) in sd-scripts, which reads none; "
        "single files in A1111."
    )
    return pages.Page("Exported files in other programs", finding, f"{limits} {_exceptions(wrong)}\n\n{table}")


def _exceptions(wrong: list[dict[str, Any]]) -> str:
    if not wrong:
        return "No file exceeds them."
    named = sorted({f"{CLIENTS[row['client']]} {row['family']} {row['eraser']} {row['format']}" for row in wrong})
    return f"Outside of them: {'; '.join(named)}."


def run_client(client: str, checkout: Path, python: str, folders: list[Path]) -> tuple[list[dict[str, Any]], str]:
    """The rows of all files that a client reads, and the versions of its packages."""
    command = [python, "-m", f"clients.{client}", str(checkout.absolute()), *map(str, folders)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1"}
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folders[0]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            _, found, row = line.partition(RESULT)
            if found:
                rows.append(json.loads(row))
                print(_line(rows[-1]), flush=True)
    if process.returncode:
        sys.exit(f"{client} ended with {process.returncode}")
    names = ("torch", "diffusers", "transformers")
    asked = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return rows, subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def _line(row: dict[str, Any]) -> str:
    verdict = "right" if is_right(row) else "WRONG"
    return (
        f"{verdict} {row['family']:5} {row['eraser']:10} {row['format']:11} {row['dtype']:8} {row['matched']:5} of "
        f"{row['keys']:5} keys, change {row['change']:.2g}, difference {row['difference']:.1e}  {row['note']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Load exported files with the loaders of other programs.")
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(), help="the client's checkout")
    parser.add_argument("--client", choices=CLIENTS, help="the client")
    parser.add_argument("--revision", default="", help="the commit or version of the checkout")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with the client's packages")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder of the exported files; made if missing")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="a family; default: all")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from clients.cases import write_family

    families = arguments.family or FAMILIES
    folders = [arguments.work.absolute() / family for family in families]
    for folder in folders:
        if not (folder / "cases.json").is_file():
            write_family(folder.name, folder)
    if arguments.client is None:
        return
    rows, versions = run_client(arguments.client, arguments.checkout, arguments.python, folders)
    stored = HERE / "results" / "client_loaders.json"
    content = json.loads(stored.read_text()) if stored.is_file() else {}
    rows = [row for row in content.get(arguments.client, {"rows": []})["rows"] if row["family"] not in families] + rows
    content[arguments.client] = {"revision": arguments.revision, "versions": versions, "rows": rows}
    ordered = {name: content[name] for name in CLIENTS if name in content}
    pages.write("client_loaders", ordered, page(ordered), "on a CPU")


if __name__ == "__main__":
    main()
