"""The fuzzer reads every reader's files and finds no defect in its first inputs; `make fuzz` reads 100,000."""

import json
import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


def test_the_first_inputs_of_every_reader_show_no_defect(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, str(FUZZ), "--inputs", "300", "--state", str(state)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    found = json.loads(state.read_text())
    assert len(found) >= 38
    assert {name: reader["defects"] for name, reader in found.items() if reader["defects"]} == {}
    assert all(reader["inputs"] == reader["read"] + reader["rejected"] > 0 for reader in found.values())
    assert sum(reader["rejected"] for reader in found.values()) > 150
