"""What an artefact says of how it was made."""

from importlib.metadata import version

_PACKAGES = ("torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """The versions of efface and of the libraries that compute."""
    import efface

    return {"efface": efface.__version__} | {package: version(package) for package in _PACKAGES}
