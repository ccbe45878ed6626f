"""S = sum_l W_l^T W_l over the maps that read the text: all that a closed form needs to know of the denoiser.

For any change of a text embedding, |x|_S^2 = x^T S x is how far its keys and values move, summed over all layers:

    sum_l |W_l x|^2 = x^T S x.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import BadInput
from efface.files import cache_folder, keep_in_cache, sha256_of_tensors
from efface.models.model import Model
from efface.models.storage.single_file import EMA
from efface.models.tensor_cache import keep, kept

_ROWS = 2048  # of a weight, made double at once
_SAMPLES = 16  # numbers of a weight


@dataclass(frozen=True, eq=False)
class TextGram:
    """S, with its square root F^T F = S, which turns the S norm into the Euclidean one: |x|_S = |F x|.

    Attributes:
        matrix: S, (d, d), float64, symmetric.
        fingerprint: SHA-256 of the weights that it sums, whatever type and order they are stored in.
    """

    matrix: Tensor
    fingerprint: str = ""

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Square roots of the eigenvalues above rounding (r,), their vectors (d, r), and the null space (d, d - r)."""
        values, vectors = torch.linalg.eigh(self.matrix)
        seen = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        return values[seen].sqrt(), vectors[:, seen], vectors[:, ~seen]

    @cached_property
    def root(self) -> Tensor:
        """F, (r, d), with r the rank of S."""
        roots, vectors, _ = self._spectrum
        return roots[:, None] * vectors.T

    @cached_property
    def inverse_root(self) -> Tensor:
        """F^+, (d, r)."""
        roots, vectors, _ = self._spectrum
        return vectors / roots

    @property
    def null_space(self) -> Tensor:
        """An orthonormal basis of what no layer reads, (d, d - r)."""
        return self._spectrum[2]

    def norms(self, tokens: Tensor) -> Tensor:
        """|x|_S of tokens (n, d), (n,)."""
        return (tokens @ self.root.T).norm(dim=1)


def text_gram(model: Model) -> TextGram:
    """S of a model, from the cache if its weights were ever summed before.

    The weights are read one after the other, so memory holds one of them and S; the denoiser is not loaded.

    Raises:
        BadInput: the text is read by maps of several widths, or by none, or a weight is not finite.
    """
    mark, found = _mark(model), fingerprint(model)
    matrix = kept(_place(found), "S", (model.width, model.width))
    if matrix is None:
        matrix = _summed(model)
        keep(_place(found), "S", matrix)
    if mark is not None:
        keep_in_cache(_told(mark), lambda path: path.write_text(found, encoding="ascii"))
    return TextGram(matrix, found)


def cached_gram(model: Model) -> TextGram | None:
    """S of a model if it is in the cache, found without reading weights of a denoiser that is not loaded.

    Files are known again by their path, size and times. Weights in memory may have been changed: a few numbers say
    whether they could be known, and then all of them, whether they are.
    """
    mark, found = _mark(model), ""
    with suppress(OSError):
        found = _told(mark).read_text(encoding="ascii") if mark is not None else ""
    if found and not model.text_files:
        found = fingerprint(model)
    matrix = kept(_place(found), "S", (model.width, model.width)) if found else None
    return None if matrix is None else TextGram(matrix, found)


def _mark(model: Model) -> str | None:
    """What tells the weights that S sums from others, as far as it can be told in a moment; None where it cannot."""
    files = model.text_files
    if files is None:
        return None
    known = [model.stream, str(model.name.endswith(EMA))]
    for path in files:
        told = path.stat()
        known += [str(path.resolve()), *map(str, (told.st_size, told.st_ino, told.st_mtime_ns, told.st_ctime_ns))]
    for name, weight in model.text_weights() if not files else ():
        if weight.is_meta:
            return None
        some = weight.flatten()[:: max(1, weight.numel() // _SAMPLES)]
        known += [name, sha256_of_tensors({str(tuple(weight.shape)): some.float()})]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()


def fingerprint(model: Model) -> str:
    """SHA-256 of the weights that S sums, whatever type and order they are stored in."""
    # Half precision is a subset of float32: the same weights have one fingerprint in both.
    digests = sorted(sha256_of_tensors({name: weight.float()}) for name, weight in model.text_weights())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _summed(model: Model) -> Tensor:
    total = torch.zeros(model.width, model.width, dtype=torch.float64)
    for name, weight in model.text_weights():
        if weight.ndim != 2 or weight.shape[1] != model.width:
            raise BadInput(f"{model.name} reads its text by maps of several widths ({name}); S is not defined for it.")
        for rows in weight.split(_ROWS):
            wide = rows.cpu().double()
            total.addmm_(wide.T, wide)
    if not total.isfinite().all():
        raise BadInput(f"The weights of {model.name} that read the text are not finite; the checkpoint is damaged.")
    if not total.any():
        raise BadInput(f"{model.name} has no weights that read the text, or they are all zero.")
    return (total + total.T) / 2


def _place(found: str) -> Path:
    return cache_folder() / "text_gram" / f"{found}.safetensors"


def _told(mark: str) -> Path:
    """Where it is told which fingerprint has what is known by a mark."""
    return cache_folder() / "text_gram" / f"{mark}.of"
