"""Where the weights of judges come from, and what a version says of them."""

from __future__ import annotations

import hashlib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file

# What transformers reads of a folder, and so what decides the scores.
_READ = ("*.safetensors", "*config.json", "tokenizer*.json")


def version_of(weights: str, model: Any) -> str:
    """A folder's name and hash, or a hub id and its commit."""
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


def user_file(weights: str, what: str) -> Path:
    """A file that the user gives.

    Raises:
        BadFile: There is none.
    """
    path = Path(weights)
    if not weights or not path.is_file():
        raise BadFile(f"Cannot open {what} at '{weights}': there is no such file.")
    return path


def optional(module: str, judge: str, extra: str) -> Any:
    """A module of a package that only some judges need.

    Raises:
        BadInput: It is not installed; the message says how to.
    """
    try:
        return import_module(module)
    except ImportError as error:
        said = f"The judge '{judge}' needs a package that is not installed: pip install 'efface[{extra}]'."
        raise BadInput(said) from error


def package_version(package: str) -> str:
    """A package's name and version."""
    return f"{package} {version(package)}"
