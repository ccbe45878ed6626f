"""Versions of the libraries, for the provenance of artefacts."""

from __future__ import annotations

from importlib.metadata import version

_PACKAGES = ("efface", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """The versions of efface and of the libraries that compute, by package name."""
    return {package: version(package) for package in _PACKAGES}
