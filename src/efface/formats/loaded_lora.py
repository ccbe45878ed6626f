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
from efface.formats.empty_denoiser import empty_denoiser
from efface.formats.low_rank import Factors
from efface.models.pretrained import from_diffusers

if TYPE_CHECKING:
    from efface.models import Model

_MARGIN = 1e-4  # relative, of a change in float32
_ADAPTER = "written"


def check_loads(model: Model, tensors: Mapping[str, Tensor], factors: Sequence[Factors]) -> None:
    """Check that diffusers loads the changes that a LoRA was written for; without peft only the parts are checked.

    Args:
        model: The model.
        tensors: The content of the file.
        factors: The changes. Those of text encoders are not compared.

    Raises:
        BadInput: The model's pipeline loads no LoRA of a part, or makes other changes of it.
    """
    kind = from_diffusers(getattr(model, "pipeline_class", ""))
    if kind is None:
        return
    if not hasattr(kind, "load_lora_weights"):
        raise BadInput(f"diffusers cannot load a LoRA into a {kind.__name__}; export the eraser as diffusers or uce.")
    parts = {model.denoiser_part if of_module.part == "denoiser" else of_module.part for of_module in factors}
    if unread := sorted(parts.difference(kind._lora_loadable_modules)):
        raise BadInput(
            f"diffusers loads no LoRA of the {unread[0]} of a {kind.__name__}; export the eraser as diffusers."
        )
    wanted = [of_module for of_module in factors if of_module.part == "denoiser"]
    if wanted and find_spec("peft") is not None:
        check_changes(kind, model.denoiser_part, empty_denoiser(model), tensors, wanted)


def check_changes(
    kind: Any, part: str, denoiser: nn.Module, tensors: Mapping[str, Tensor], factors: Sequence[Factors]
) -> None:
    """Check that a pipeline's own loader makes of a file the changes of a denoiser that it was written for.

    Args:
        kind: The class of the pipeline.
        part: The pipeline's name for the denoiser.
        denoiser: A denoiser without weights, which receives the LoRA.
        tensors: The content of the file.
        factors: The changes.

    Raises:
        BadInput: The loader fails or makes other changes.
    """
    wanted = {of_module.module: of_module for of_module in factors}
    of_denoiser = {name: tensor for name, tensor in tensors.items() if name.startswith((f"{part}.", "lora_unet_"))}
    try:
        with _quiet():
            _pipeline(kind, part, denoiser).load_lora_weights(of_denoiser, adapter_name=_ADAPTER)
    except Exception as error:  # its conversions of names fail in any way
        raise BadInput(
            f"diffusers cannot load a LoRA with these names into a {kind.__name__} of this size; export the eraser in "
            "another format, such as diffusers."
        ) from error
    layers = {name: module for name, module in denoiser.named_modules() if _ADAPTER in getattr(module, "lora_A", ())}
    for name in sorted(layers.keys() | wanted.keys()):
        if name not in layers or not _equal(layers[name], wanted.get(name)):
            raise BadInput(
                f"diffusers does not load the change of {name} from a LoRA for a {kind.__name__}; export the eraser as "
                "diffusers or uce."
            )


def _pipeline(kind: Any, part: str, denoiser: nn.Module) -> Any:
    """A pipeline with this denoiser and nothing else."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    needed = [parameter.name for parameter in list(parameters)[1:] if parameter.default is inspect.Parameter.empty]
    options = {"requires_safety_checker": False} if "requires_safety_checker" in kind.__init__.__annotations__ else {}
    return kind(**{**dict.fromkeys(needed), **options, part: denoiser})


def _equal(loaded: Any, written: Factors | None) -> bool:
    """Whether a loaded layer and the factors, or no change, act equally on random inputs, up to rounding."""
    down, up = (getattr(loaded, name)[_ADAPTER].weight.detach().flatten(1).float() for name in ("lora_A", "lora_B"))
    probes = torch.randn(down.shape[1], 4, generator=torch.Generator().manual_seed(0))
    change = loaded.scaling[_ADAPTER] * (up @ (down @ probes))
    if written is None:
        return not change.any()
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
