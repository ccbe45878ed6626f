"""Memory of this process. A child's `ru_maxrss` begins at its parent's peak; Linux' own counts do not."""

from pathlib import Path


def megabytes(what: str = "VmHWM") -> float:
    """`VmHWM`, the largest resident set so far, or `VmRSS`, the one now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024
