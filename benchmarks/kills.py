"""Commands that are interrupted at random moments and run again, against commands that nothing interrupts.

    python benchmarks/kills.py [--kills N] [--state FILE] [--only WORDS]     writes results/kills.md and .json

A command receives SIGKILL in one worker, in the process that the user started, or in all of its processes; SIGINT, in
all; SIGTERM, in the first; or its disk is full (`killing.full_disk`). In one trial this happens up to six times; then
the same command runs to its end. The commands run in forked processes that have everything imported, so that the kills
fall into the work. The next command is the one with the least time so far.

A defect is a result that differs from an uninterrupted run's (times aside), a file that such a run does not leave, a
traceback, or a process that does not end. An item (an eraser, an image, a file of verdicts) is computed twice if it was
finished before a run and that run writes it again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pages import Page, machine, table, write

if TYPE_CHECKING:
    from killing.cases import Case
    from killing.trial import Outcome, Trial

KILLS = 500
#: The commands whose items several processes share, or whose work consists of many items.
_OF_ITEMS = ("erase", "erase --each", "generate", "generate --each-eraser", "judge", "judge --prompts", "evaluate")
_HEADS = {"worker": "SIGKILL: a worker", "parent": "the parent", "all": "all", "disk": "full disk"}
_KINDS = ("worker", "parent", "all", "SIGINT", "SIGTERM", "disk")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing interrupts.

    Attributes:
        seconds: Its duration.
        size: Bytes in its folders for output, cache and temporary files.
        content: What it has written.
        temporary: What libraries leave in the folder of temporary files.
    """

    seconds: float
    size: int
    content: dict[str, object]
    temporary: frozenset[str]


class Laboratory:
    """The inputs of the commands, and their results without an interruption.

    Args:
        folder: A new folder for all trials.
        cases: The commands.
    """

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        import torch

        from killing.cases import prepare

        torch.set_num_threads(1)  # threads do not survive a fork
        logging.getLogger("efface").setLevel(logging.ERROR)
        self._folder, self._number = folder, 0
        self._undisturbed: dict[str, Undisturbed] = {}
        os.environ["EFFACE_CACHE"] = str(folder / "cache")
        prepare(folder / "inputs", cases)

    def outcome(self, case: Case, kind: str, draw: random.Random) -> Outcome:
        """Interrupt a command, complete it, and compare the result.

        Args:
            case: The command.
            kind: A key of `SIGNALS`, or `disk`.
            draw: The source of the moments.
        """
        from killing.content import content_of, leftovers
        from killing.full_disk import on_full_disk
        from killing.trial import interrupted

        expected, trial = self._of(case), self._trial(case)
        if kind == "disk":
            outcome = on_full_disk(trial, expected.size, draw)
        else:
            outcome = interrupted(trial, kind, expected.seconds, draw)
        content = content_of(trial.folder / "out")
        names = sorted(expected.content.keys() | content.keys())
        if differ := [name for name in names if expected.content.get(name) != content.get(name)]:
            outcome.defects.append(f"other results: {differ[:3]}")
        if left := leftovers(trial.folder, expected.content, expected.temporary):
            outcome.defects.append(f"left over: {left[:3]}")
        shutil.rmtree(trial.folder)
        return outcome

    def _trial(self, case: Case) -> Trial:
        from killing.trial import Trial

        self._number += 1
        return Trial(case, self._folder / "inputs", self._folder / f"trial-{self._number}")

    def _of(self, case: Case) -> Undisturbed:
        from killing.content import content_of

        if case.name not in self._undisturbed:
            trial = self._trial(case)
            started = time.monotonic()
            code = trial.end(trial.start())
            seconds = time.monotonic() - started
            assert code == 0, f"{case.name}: {trial.output}"
            size = sum(path.stat().st_size for path in trial.folder.rglob("*") if path.is_file())
            temporary = frozenset(path.name for path in (trial.folder / "tmp").iterdir())
            self._undisturbed[case.name] = Undisturbed(seconds, size, content_of(trial.folder / "out"), temporary)
            shutil.rmtree(trial.folder)
        return self._undisturbed[case.name]


def run(laboratory: Laboratory, cases: Sequence[Case], kinds: Sequence[str], kills: int, rows: Any) -> Iterable[str]:
    """Interrupt commands until there are so many kills.

    Args:
        laboratory: Runs the commands.
        cases: The commands.
        kinds: What happens, in turn for each command.
        kills: The number of kills of all commands.
        rows: The counts by command; they have those of earlier runs, and are changed.

    Yields:
        After each trial, what it was, and its defects.
    """
    for case in cases:
        rows.setdefault(case.name, {"seconds": 0.0, "trials": 0, "kills": {}, "twice": 0, "defects": []})
    while _kills(rows.values()) < kills:
        case = min(cases, key=lambda one: rows[one.name]["seconds"])
        row, started = rows[case.name], time.monotonic()
        possible = [kind for kind in kinds if kind != "worker" or case.has_workers]
        kind = possible[row["trials"] % len(possible)]
        outcome = laboratory.outcome(case, kind, random.Random(f"{case.name} {row['trials']}"))
        row["trials"] += 1
        row["seconds"] += time.monotonic() - started
        row["kills"][kind] = row["kills"].get(kind, 0) + outcome.kills
        row["twice"] += outcome.twice
        row["defects"] += [f"{kind}: {defect}" for defect in outcome.defects]
        yield f"{case.name}, {kind}: {outcome.kills} kills, {outcome.twice} twice, {outcome.defects}"


def _kills(rows: Iterable[Any], kinds: Sequence[str] = _KINDS) -> int:
    return sum(row["kills"].get(kind, 0) for row in rows for kind in kinds)


def main() -> None:
    from efface.files import cache_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument(
        "--state", type=Path, default=cache_folder() / "kills.json", help="the file with which a run continues"
    )
    parser.add_argument("--only", default="", help="the whole name of a command; no page is written")
    arguments = parser.parse_args()
    from killing.cases import CASES
    from killing.full_disk import can_mount

    state: Path = arguments.state
    rows: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    folder = Path(tempfile.mkdtemp(prefix="efface-kills-")).resolve()
    try:
        cases = [case for case in CASES if arguments.only in ("", case.name)]
        laboratory = Laboratory(folder, cases)
        kinds = _KINDS if can_mount(folder / "inputs") else _KINDS[:-1]
        for line in run(laboratory, cases, kinds, arguments.kills, rows):
            print(line, flush=True)
            state.parent.mkdir(parents=True, exist_ok=True)
            state.write_text(json.dumps(rows))
        if not arguments.only:
            rows = {case.name: rows[case.name] for case in CASES}
            write("kills", rows, page(rows), machine(), "one trial after the other on a busy machine")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def page(content: dict[str, Any]) -> Page:
    """The result page of the numbers in kills.json."""
    rows = content.values()
    kills, trials, defects = _kills(rows), sum(row["trials"] for row in rows), sum(len(row["defects"]) for row in rows)
    shared = [row for name, row in content.items() if name in _OF_ITEMS]
    finding = (
        f"After {kills} kills and full disks in {trials} trials of {len(content)} commands, the same command gave the "
        f"result of an uninterrupted run with {defects or 'no'} exception{'' if defects == 1 else 's'}; "
        f"{_kills(shared, ('worker', 'parent', 'all'))} of the kills were SIGKILLs in erase, generate, judge and "
        f"evaluate, after which {sum(row['twice'] for row in shared) or 'no'} finished items were computed twice."
    )
    kinds = [kind for kind in _KINDS if any(kind in row["kills"] for row in rows)]
    cells = [
        [
            f"`{name}`",
            *(str(row["kills"].get(kind, "-")) for kind in kinds),
            str(row["trials"]),
            str(len(row["defects"])),
            str(row["twice"]),
        ]
        for name, row in content.items()
    ]
    heads = ["command", *(_HEADS.get(kind, kind) for kind in kinds), "trials", "defects", "computed twice"]
    found = "\n".join(f"- `{name}`: {defect}" for name, row in content.items() for defect in row["defects"])
    return Page("Killed and run again", finding, table(heads, cells) + (f"\n\nDefects:\n\n{found}" if found else ""))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
