"""Weights files that a user gives, put into the networks that they are for."""

from pathlib import Path

from torch import Tensor, nn

from efface.errors import BadFile
from efface.formats.reading import read_checkpoint


def fill(module: nn.Module, *files: str | Path) -> None:
    """Put the weights of some files into a module: all that it has, and none of another shape.

    Args:
        module: Its names are those in the files.
        files: `.safetensors`, or what `torch.save` wrote; a later one overrules an earlier one.

    Raises:
        BadFile: A file cannot be read, or a weight is missing or does not fit; the message names it.
    """
    readers = {name: read for file in files for name, read in read_checkpoint(Path(file)).tensors.items()}
    source = " and ".join(map(str, files)) or "no file"
    state: dict[str, Tensor] = {}
    for name, own in module.state_dict().items():
        # Older files lack the counters of batch normalisation, which inference does not read.
        if name not in readers and name.endswith("num_batches_tracked"):
            continue
        if name not in readers:
            raise BadFile(f"'{name}' is missing from {source}; give the weights that the documentation names.")
        state[name] = readers[name]()
        if state[name].shape != own.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(own.shape)}"
            raise BadFile(f"'{name}' in {source} has shape {shapes}; give the weights that the documentation names.")
    module.load_state_dict(state, strict=False)
