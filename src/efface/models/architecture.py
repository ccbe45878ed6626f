"""The YAML file of a Stable Diffusion checkpoint's architecture (`v1-inference.yaml`), compared with an open model.

The configuration of a checkpoint is known from its weights, so the file is not needed to open it. A file that
contradicts the model is most likely the file of another checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile, BadInput
from efface.parsing import read_yaml

if TYPE_CHECKING:
    from efface.models.model import Model

_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def check_architecture(model: Model, path: Path) -> None:
    """Check that a model has the architecture of a file.

    Args:
        model: A Stable Diffusion 1.x or 2.x.
        path: The YAML file.

    Raises:
        BadFile: The file cannot be read, or describes no U-Net.
        BadInput: The model has another architecture.
    """
    params = _params(path)
    denoiser = _mapping(_mapping(params.get("unet_config")).get("params"))
    if not denoiser:
        raise BadFile(f"{path} describes no model: it has no model.params.unet_config.params.")
    config, schedule = model.denoiser.config, model.scheduler_config
    actual = {
        "in_channels": config.get("in_channels"),
        "out_channels": config.get("out_channels"),
        "model_channels": config.get("block_out_channels", [None])[0],
        "num_res_blocks": config.get("layers_per_block"),
        "context_dim": config.get("cross_attention_dim"),
        "timesteps": schedule.get("num_train_timesteps"),
        "parameterization": schedule.get("prediction_type", "epsilon"),
    }
    expected = {**params, **denoiser}
    if "parameterization" in params:
        expected["parameterization"] = _PREDICTIONS.get(params["parameterization"], params["parameterization"])
    for name, value in actual.items():
        if name in expected and expected[name] != value:
            there = expected[name]
            raise BadInput(f"{path} is for another model: {name} is {there} there, and {value} in {model.name}.")


def _params(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path, "the model's configuration")
    return _mapping(_mapping(_mapping(content).get("model")).get("params"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
