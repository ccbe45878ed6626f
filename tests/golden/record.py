"""Records golden values, or compares with the recorded ones.

    python tests/golden/record.py                    run what is not recorded yet; --again: all
    python tests/golden/record.py --compare          run all and print differences; 1 is returned if there are any
    python tests/golden/record.py --only "erase/*"   some of the cases, with either
    python tests/golden/record.py --texts DIR        also keep what was hashed as text, for `diff -r` of two commits

Which efface is run is that of PYTHONPATH, or the installed one.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cases import CASES, FRAGILE, GOLDEN, MESSAGES, differences, matches, processor
from lab import Lab, Value


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", action="store_true", help="record nothing, print what is not as recorded")
    parser.add_argument("--again", action="store_true", help="record also what is recorded")
    parser.add_argument("--fingerprints", action="store_true", help="compare as another processor does")
    parser.add_argument("--backwards", action="store_true", help="last case first: no case may depend on another")
    parser.add_argument("--times", action="store_true", help="print how long each case took")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--texts", type=Path, metavar="DIR")
    parser.add_argument("--golden", type=Path, default=GOLDEN, metavar="FILE")
    options = parser.parse_args()
    golden = json.loads(options.golden.read_text()) if options.golden.exists() else {"cases": {}, "messages": {}}
    here = processor()
    same = golden.setdefault("processor", here) == here
    if not same and not options.compare:
        print("golden.json is of another processor; remove it to record on this one.")
        return 1
    if options.texts:
        options.texts.mkdir(parents=True)
    names = [name for name in CASES if matches(name, tuple(options.only))]
    names = names[::-1] if options.backwards else names
    mistakes = [name for name in MESSAGES if matches(f"messages/{name}", tuple(options.only))]
    started, wrong, times = time.perf_counter(), 0, dict[str, float]()
    with TemporaryDirectory() as folder:
        lab = Lab(Path(folder).resolve(), options.texts)
        for name in names:
            if not options.compare and not options.again and name in golden["cases"]:
                continue
            began = time.perf_counter()
            try:
                value = lab.run_case(name, CASES[name])
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}"[:400], flush=True)
                wrong += 1
                continue
            times[name] = time.perf_counter() - began
            if options.compare:
                wrong += _compared(name, golden["cases"].get(name), value, same and not options.fingerprints)
            else:
                golden["cases"][name] = value
                _write(golden, options.golden)
        for name in mistakes:
            ended: dict[str, Any] = {}
            lab.run_case(f"messages/{name}", lambda lab, name=name, ended=ended: _mistake(lab, name, ended))
            if options.compare:
                known = golden["messages"].get(name, {})
                wrong += _compared(f"messages/{name}", {"exact": known.get("code")}, {"exact": ended["code"]}, True)
            else:
                golden["messages"][name] = ended
    if not options.compare:
        _write(golden, options.golden)
    if options.times:
        for name, seconds in sorted(times.items(), key=lambda item: -item[1]):
            print(f"{seconds:7.2f} s  {name}")
    how = "compared by exact hashes" if same and not options.fingerprints else "compared by fingerprints"
    print(f"{len(names)} cases, {len(mistakes)} mistakes, {time.perf_counter() - started:.0f} s, ", end="")
    print(f"{how}: {wrong} differ" if options.compare else "recorded")
    return 1 if wrong else 0


def _mistake(lab: Lab, name: str, ended: dict[str, Any]) -> Value:
    outcome = MESSAGES[name](lab)
    ended |= {"code": outcome.code, "stderr": lab.masked(outcome.err)}
    return {}


def _compared(name: str, golden: Value | None, found: Value, same: bool) -> int:
    """1 if a value is another one, which is printed; 0 if not."""
    if not same and matches(name, FRAGILE):
        return 0
    wrong = ["is not recorded"] if golden is None else differences(name, golden, found, same)
    for line in wrong:
        print(f"{name}: {line[:300]}", flush=True)
    return 1 if wrong else 0


def _write(golden: dict[str, Any], path: Path) -> None:
    """Whole or not at all; one case a line."""
    golden = {half: dict(sorted(golden[half].items())) for half in ("processor", "cases", "messages")}
    lines = [f'"processor": {json.dumps(golden["processor"])}']
    for half in ("cases", "messages"):
        rows = [f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in golden[half].items()]
        lines.append(f'"{half}": {{\n' + ",\n".join(rows) + "\n}")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
