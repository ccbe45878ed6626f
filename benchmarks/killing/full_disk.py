"""A disk that is full during a run: a small file system in memory, which needs the permission to mount one."""

from __future__ import annotations

import random
import shutil
import subprocess
from mmap import PAGESIZE
from pathlib import Path

from killing.trial import Outcome, Trial

_ENOUGH = "512m"


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system.

    Args:
        folder: An existing folder.
    """
    mounted = subprocess.run([*_mount("64k"), "none", str(folder)], capture_output=True, check=False)
    if mounted.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return mounted.returncode == 0


def on_full_disk(trial: Trial, size: int, draw: random.Random) -> Outcome:
    """Run a trial in a file system that is too small for it, then in the same one with enough space.

    Args:
        trial: The trial.
        size: Bytes that the command writes.
        draw: The source of the available space.
    """
    outcome, folder = Outcome(), trial.folder
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    subprocess.run([*_mount(_ENOUGH), "none", str(folder)], check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        _resize(folder, str(_used(folder) + int(size * draw.uniform(0.02, 0.95))))
        with trial.counting(outcome):
            code = trial.end(trial.start())
        outcome.kills += code in (1, 2)
        if code not in (0, 1, 2) or "Traceback" in trial.output:
            outcome.defects.append(f"ended with {code}: {trial.output[-300:]}")
        _resize(folder, _ENOUGH)
        trial.complete(outcome)
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
    aside.rename(folder)
    return outcome


def _used(folder: Path) -> int:
    """The bytes of the pages that hold the files of a folder."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // PAGESIZE) * PAGESIZE for size in sizes)


def _mount(size: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={size}"]


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
