"""Weights of judges: opening files and optional packages, and the versions that verdicts report."""

from __future__ import annotations

import hashlib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file

# The files of a folder that transformers reads, which therefore decide the scores.
_READ = ("*.safetensors", "*config.json", "tokenizer*.json")


def version_of(weights: str, model: Any) -> str:
    """The version of a network of transformers.

    Args:
        weights: The folder or hub id that the network was opened from.
        model: The network, whose configuration has the commit on the hub.

    Returns:
        The folder's name and hash, or the hub id and its commit.
    """
    folder = Path(weights)
    if not folder.is_dir():
        commit: str = getattr(model.config, "_commit_hash", None) or "unknown commit"
        return f"{weights}@{commit[:12]}"
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _READ for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{sha256_of_file(path)}\0".encode())
    return f"{folder.resolve().name} {digest.hexdigest()[:12]}"


def file_version(path: Path) -> str:
    """A file's name and hash."""
    return f"{path.name} {sha256_of_file(path)[:12]}"


def package_version(package: str) -> str:
    """A package's name and version."""
    return f"{package} {version(package)}"


def existing_file(weights: str, what: str) -> Path:
    """The path of a file that the user names.

    Args:
        weights: The name.
        what: The content, for the message ("a detector").

    Raises:
        BadFile: There is no such file.
    """
    path = Path(weights)
    if not weights or not path.is_file():
        raise BadFile(f"Cannot open {what} at '{weights}': there is no such file.")
    return path


def import_optional(module: str, judge: str, extra: str) -> Any:
    """Import a module of a package that only some judges need.

    Args:
        module: The module.
        judge: The judge that needs it, for the message.
        extra: The extra of efface that installs it.

    Raises:
        BadInput: The package is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        needed = f"The judge '{judge}' needs a package that is not installed: pip install 'efface[{extra}]'."
        raise BadInput(needed) from error
