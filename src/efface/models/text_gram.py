"""The Gram matrix S = sum_l W_l^T W_l over the maps W_l that read the text: all that a closed form needs of a denoiser.

For any change x of a text embedding, |x|_S^2 = x^T S x is the change of its keys and values, summed over all layers:

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
from efface.files import cache_folder, from_cache, keep_in_cache, sha256_of_tensors
from efface.models.model import Model
from efface.models.storage.single_file import EMA
from efface.models.tensor_cache import load_tensor, store_tensor

_ROWS = 2048  # of a weight, converted to float64 at once
_SAMPLES = 16  # entries of a weight that identify it


@dataclass(frozen=True, eq=False)
class TextGram:
    """S with its square root F, F^T F = S, which turns the S norm into the Euclidean norm: |x|_S = |F x|.

    Attributes:
        matrix: The matrix S, (d, d), float64, symmetric.
        fingerprint: SHA-256 of the summed weights, independent of their type and order.
    """

    matrix: Tensor
    fingerprint: str = ""

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Square roots of the eigenvalues above rounding (r,), their vectors (d, r), and the null space (d, d - r)."""
        values, vectors = torch.linalg.eigh(self.matrix)
        is_read = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        return values[is_read].sqrt(), vectors[:, is_read], vectors[:, ~is_read]

    @cached_property
    def root(self) -> Tensor:
        """The square root F, (r, d), with r the rank of S."""
        roots, vectors, _ = self._spectrum
        return roots[:, None] * vectors.T

    @cached_property
    def inverse_root(self) -> Tensor:
        """The pseudo-inverse F^+, (d, r)."""
        roots, vectors, _ = self._spectrum
        return vectors / roots

    @property
    def null_space(self) -> Tensor:
        """An orthonormal basis of the directions that no layer reads, (d, d - r)."""
        return self._spectrum[2]

    def norms(self, tokens: Tensor) -> Tensor:
        """Norms |x|_S of tokens (n, d), (n,)."""
        return (tokens @ self.root.T).norm(dim=1)


def text_gram(model: Model) -> TextGram:
    """S of a model, (d, d), from the cache if the same weights were summed before.

    The weights are read one by one, so that memory holds one of them and S; the denoiser is not loaded.

    Raises:
        BadInput: The text is read by maps of several widths or by none, or a weight is not finite.
    """
    key, digest = _quick_key(model), fingerprint(model)
    matrix = load_tensor(_path(digest), "S", (model.width, model.width))
    if matrix is None:
        matrix = _summed(model)
        store_tensor(_path(digest), "S", matrix)
    if key is not None:
        keep_in_cache(_path_of_key(key), lambda path: path.write_text(digest, encoding="ascii"))
    return TextGram(matrix, digest)


def cached_gram(model: Model) -> TextGram | None:
    """S of a model, (d, d), if it is in the cache; weights of a denoiser that is not loaded are not read.

    Files are recognised by path, size and times. Weights in memory may have been changed: a few entries decide whether
    they could be in the cache; if so, all entries are compared.
    """
    key, digest = _quick_key(model), ""
    with suppress(OSError):
        if key is not None and (path := from_cache(_path_of_key(key))) is not None:
            digest = path.read_text(encoding="ascii")
    if digest and not model.text_files:
        digest = fingerprint(model)
    matrix = load_tensor(_path(digest), "S", (model.width, model.width)) if digest else None
    return None if matrix is None else TextGram(matrix, digest)


def _quick_key(model: Model) -> str | None:
    """A hash that distinguishes the summed weights from most others within milliseconds; None if there is none."""
    files = model.text_files
    if files is None:
        return None
    facts = [model.stream, str(model.name.endswith(EMA))]
    for path in files:
        stat = path.stat()
        facts += [str(path.resolve()), *map(str, (stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))]
    for name, weight in model.text_weights() if not files else ():
        if weight.is_meta:
            return None
        samples = weight.flatten()[:: max(1, weight.numel() // _SAMPLES)]
        facts += [name, sha256_of_tensors({str(tuple(weight.shape)): samples.float()})]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def fingerprint(model: Model) -> str:
    """SHA-256 of the weights that S sums, independent of their type and order."""
    # Half precision is a subset of float32, so the same weights have the same fingerprint in both.
    digests = sorted(sha256_of_tensors({name: weight.float()}) for name, weight in model.text_weights())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _summed(model: Model) -> Tensor:
    total = torch.zeros(model.width, model.width, dtype=torch.float64)
    for name, weight in model.text_weights():
        if weight.ndim != 2 or weight.shape[1] != model.width:
            raise BadInput(f"{model.name} reads its text by maps of several widths ({name}); S is not defined for it.")
        for rows in weight.split(_ROWS):
            rows_64 = rows.cpu().double()
            total.addmm_(rows_64.T, rows_64)
    if not total.isfinite().all():
        raise BadInput(f"The weights of {model.name} that read the text are not finite; the checkpoint is damaged.")
    if not total.any():
        raise BadInput(f"{model.name} has no weights that read the text, or they are all zero.")
    return (total + total.T) / 2


def _path(digest: str) -> Path:
    return cache_folder() / "text_gram" / f"{digest}.safetensors"


def _path_of_key(key: str) -> Path:
    """The file with the fingerprint that belongs to a quick key."""
    return cache_folder() / "text_gram" / f"{key}.of"
