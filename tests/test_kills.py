"""Commands that are killed and run again give the result of an uninterrupted run; `make kill` kills 500 times."""

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = Path(__file__).parents[1] / "benchmarks" / "kills.py"


def test_a_killed_command_gives_the_result_of_an_uninterrupted_one(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, str(KILLS), "--kills", "2", "--only", "erase", "--state", str(state)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    (row,) = json.loads(state.read_text()).values()
    assert row["defects"] == []
    assert row["twice"] == 0
    assert sum(row["kills"].values()) >= 2
