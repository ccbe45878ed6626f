"""The golden cases, how two values are compared, and which cases the tests run."""

import math
import platform
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

import commands
import erasers
import mistakes
import torch
from lab import Value

GOLDEN = Path(__file__).parent / "golden.json"
CASES = {**erasers.cases(), **commands.cases()}
MESSAGES = mistakes.messages()

#: Relative tolerance of another processor; of what trains, searches or inverts ill-conditioned matrices, and of
#: pictures, which are rounded to bytes.
TOLERANCE, LOOSE = 1e-4, 3e-2
#: What has the looser one.
ILL_CONDITIONED = (
    *(f"*/{method}*" for method in ("esd", "ablate", "cie", "sepce", "nullspace", "robust", "rece")),
    *("compose/*", "sd/*", "sdxl/*", "sd3/*", "flux/*", "draw/*", "evaluate/*", "attack/*", "judge/*", "json/*"),
)
#: Cases that the tests leave to `record.py --compare`, as they take too long.
SLOW: tuple[str, ...] = (
    *("json/demo", "json/erase *", "attack/*", "evaluate/err *", "evaluate/side by side", "evaluate/style"),
    *("evaluate/ablation", "evaluate/clip_skip", "export/single-file*", "export/diffusers [tw]*", "draw/half of*"),
    *("erase/ablate/[mptk]*", "erase/esd/[cdmps]*", "erase/esd/train_method=[efns]*", "erase/esd/no*"),
    *("erase/sepce/[bnt]*", "erase/nullspace/[elns]*", "erase/robust/gradient*", "erase/cie/[bns]*"),
    *("split/esd*", "split/sepce*", "split/ablate", "split/nullspace", "compose/cie", "compose/esd", "compose/ablate"),
    *("compose/sepce", "compose/nullspace", "draw/esd", "draw/text and*", "export/*certified", "judge/clip"),
    *("erase/robust/[dn][eo][rt]*", "compose/robust", "erase/ablate/nothing*", "erase/uce/certify*", "draw/*guidance"),
    *("draw/defaults", "draw/sld", "draw/adavd", "draw/flux", "export/kohya sdxl", "evaluate/coco", "erase/esd/erase*"),
)
#: Cases whose fingerprints another processor does not repeat: they hold on the recording one alone.
FRAGILE: tuple[str, ...] = ("*/cie*", "*/sepce*", "compose/*esd*", "export/*esd*", "sd/robust/defaults")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a case is one of those that patterns name."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def processor() -> dict[str, Any]:
    """What makes rounding what it is."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = lines[0] if lines else name
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "name": name,
        "torch": torch.__version__,
        "threads": 1,
    }


def differences(name: str, golden: Value, found: Value, same_processor: bool) -> list[str]:
    """What of a value is not as recorded: of its exact half on the same processor, else of its near half."""
    half, tolerance = "exact" if same_processor else "near", LOOSE if matches(name, ILL_CONDITIONED) else TOLERANCE
    return list(_differing(golden[half], found[half], half, tolerance))


def _differing(golden: Any, found: Any, where: str, tolerance: float) -> Iterator[str]:
    if isinstance(golden, dict) and isinstance(found, dict):
        one, other = cast(Mapping[str, Any], golden), cast(Mapping[str, Any], found)
        for key in sorted(one.keys() | other.keys()):
            if key not in one or key not in other:
                yield f"{where}.{key} is only {'recorded' if key in one else 'found'}"
            else:
                yield from _differing(one[key], other[key], f"{where}.{key}", tolerance)
    elif isinstance(golden, list) and isinstance(found, list) and where.startswith("near"):
        if not _near(cast(list[Any], golden), cast(list[Any], found), where, tolerance):
            yield f"{where}: {golden} recorded, {found} found"
    elif golden != found:
        yield f"{where}: {golden} recorded, {found} found"


def _near(golden: list[Any], found: list[Any], where: str, tolerance: float) -> bool:
    """Whether lists are alike: of numbers each to itself, of fingerprints each to its norm."""
    if len(golden) != len(found):
        return False
    if golden and isinstance(golden[0], list):
        return all(_near(one, other, where, tolerance) for one, other in zip(golden, found, strict=True))
    if where.endswith(".numbers"):
        pairs = zip(golden, found, strict=True)
        return all(math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-6) for one, other in pairs)
    allowed = (LOOSE if ".pictures" in where else tolerance) * max(golden[0], found[0]) + 1e-12
    return all(abs(one - other) <= allowed for one, other in zip(golden, found, strict=True))
