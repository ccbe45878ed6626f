"""Memory of this process, from Linux. `ru_maxrss` of a child process would start at its parent's peak."""

from __future__ import annotations

from pathlib import Path


def megabytes(what: str = "VmHWM") -> float:
    """The largest resident set so far (`VmHWM`), or the present one (`VmRSS`)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024
