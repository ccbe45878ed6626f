"""The command line: one file per command, which parses options, calls a verb of `efface.api` and prints the result.

Heavy libraries are imported when a command runs, so that `--help` is fast.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the `efface` command and exit with its code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    # Idle OpenMP threads spin by default, which slows a shared machine down; torch reads this variable at import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(library, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from efface.cli.run import run

    sys.exit(run(sys.argv[1:]))
