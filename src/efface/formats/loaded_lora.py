"""What diffusers makes of a LoRA: its own loader runs on a denoiser without weights, and the changes are compared.

Some of diffusers' loaders accept names that they then ignore, so that a file would have no effect and no error. The
denoiser needs no memory for its weights, so that the check of a large model takes seconds. It needs peft, as diffusers'
loader does.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.errors import BadInput
from efface.formats.low_rank import Factors
from efface.models.modules import plain
from efface.models.pretrained import class_of

if TYPE_CHECKING:
    from efface.models import Model

_MARGIN = 1e-4  # relative, of a change in float32
_ADAPTER = "written"


def check_loads(model: Model, tensors: Mapping[str, Tensor], factors: Sequence[Factors]) -> None:
    """Check that diffusers loads the changes of a denoiser that a LoRA was written for; without peft it is not checked.

    Args:
        model: The model.
        tensors: The content of the file.
        factors: The changes.

    Raises:
        BadInput: The model's pipeline loads no LoRA, or makes other changes of it.
    """
    import diffusers

    wanted = {of_module.module: of_module for of_module in factors if of_module.part == "denoiser"}
    kind: Any = getattr(diffusers, getattr(model, "pipeline_class", ""), None)
    if not wanted or kind is None or find_spec("peft") is None:
        return
    if not hasattr(kind, "load_lora_weights"):
        raise BadInput(f"diffusers cannot load a LoRA into a {kind.__name__}; export the eraser as diffusers or uce.")
    denoiser = _without_weights(model)
    part = f"{model.denoiser_part}."
    of_denoiser = {name: tensor for name, tensor in tensors.items() if name.startswith((part, "lora_unet_"))}
    with _quiet():
        _pipeline(kind, model.denoiser_part, denoiser).load_lora_weights(of_denoiser, adapter_name=_ADAPTER)
    layers = {name: module for name, module in denoiser.named_modules() if _ADAPTER in getattr(module, "lora_A", ())}
    for name in sorted(layers.keys() | wanted.keys()):
        if name not in layers or name not in wanted or not _equal(layers[name], wanted[name]):
            raise BadInput(
                f"diffusers does not load the change of {name} from a LoRA for a {kind.__name__}; export the eraser as "
                "diffusers or uce."
            )


def _without_weights(model: Model) -> nn.Module:
    """A denoiser of the model's class and configuration, whose weights are zeros that take no memory."""
    if model.folder is None:
        network: Any = plain(model.denoiser)
        kind, config = type(network), network.config
    else:
        kind, config = class_of(model.files, model.denoiser_part), model.files.config(model.denoiser_part)
    with torch.device("meta"):
        denoiser: nn.Module = kind.from_config(dict(config))
    for module in denoiser.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # One number for all elements. Factors that are loaded beside weights on `meta` would be moved there.
            zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    return denoiser


def _pipeline(kind: Any, part: str, denoiser: nn.Module) -> Any:
    """A pipeline with this denoiser and nothing else."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    needed = [parameter.name for parameter in list(parameters)[1:] if parameter.default is inspect.Parameter.empty]
    options = {"requires_safety_checker": False} if "requires_safety_checker" in kind.__init__.__annotations__ else {}
    return kind(**{**dict.fromkeys(needed), **options, part: denoiser})


def _equal(loaded: Any, written: Factors) -> bool:
    """Whether a loaded layer and the factors change random inputs equally, up to rounding."""
    down, up = (getattr(loaded, name)[_ADAPTER].weight.flatten(1).float() for name in ("lora_A", "lora_B"))
    probes = torch.randn(down.shape[1], 4, generator=torch.Generator().manual_seed(0))
    change = loaded.scaling[_ADAPTER] * (up @ (down @ probes))
    expected = written.up.float() @ (written.down.float() @ probes)
    return float((change - expected).norm()) <= _MARGIN * float(expected.norm())


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """A context in which diffusers does not warn that the file has nothing for parts that are not there."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
