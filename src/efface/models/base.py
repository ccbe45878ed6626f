"""What every family of models offers: prompts to embeddings, and the parameters that read them.

Shapes: n prompts, T tokens (padding included), d text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Embedded:
    """Prompts as the denoiser reads them.

    Attributes:
        tokens: (n, T, d), float32.
        last: (n,), index of each prompt's last subject token: the one before the end token. The empty prompt has
            none, and the index falls on the start token, as it does in the reference scripts.
        prompts: the n prompts.
    """

    tokens: Tensor
    last: Tensor
    prompts: tuple[str, ...]

    @property
    def last_tokens(self) -> Tensor:
        """The last subject tokens, (n, d)."""
        return self.tokens[torch.arange(len(self.prompts)), self.last]


class Model(ABC):
    """A text-to-image model whose parts are loaded when they are first used.

    Attributes:
        family: name of the family ("sd").
        name: what the model was opened by.
        folder: the diffusers folder it comes from; None for a pipeline given by hand.
        device: where parts are put.
        dtype: the parts' floating type.
    """

    family: ClassVar[str]
    name: str
    folder: Path | None
    device: torch.device
    dtype: torch.dtype

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer."""

    @property
    @abstractmethod
    def text_encoder(self) -> nn.Module:
        """The text encoder."""

    @property
    def has_text_encoder(self) -> bool:
        """Whether there is one; a pipeline may have given it up to save memory."""
        return True

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The network that reads `encoder_hidden_states`: a U-Net or a transformer."""

    @property
    @abstractmethod
    def vae(self) -> Any:
        """The autoencoder between pictures and latents."""

    @property
    @abstractmethod
    def scheduler_config(self) -> Mapping[str, Any]:
        """The scheduler's configuration, with its `_class_name`."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """How many tokens a prompt may have, start and end tokens included."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width d of a text embedding."""

    @abstractmethod
    def embed(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        """Embed prompts; equal prompts are computed once.

        Args:
            prompts: n prompts.
            clip_skip: how many of the text encoder's last layers to skip.
            truncate: cut prompts that are too long instead of refusing them.
            batch_size: prompts a forward pass.

        Raises:
            BadRequest: a prompt is longer than the tokenizer's maximum, and `truncate` is false.
        """

    def embed_last(self, prompts: Sequence[str], *, clip_skip: int | None = None) -> Tensor:
        """The last subject tokens of `embed`, (n, d); without the padding, where the encoder looks only backwards."""
        return self.embed(prompts, clip_skip=clip_skip).last_tokens

    def words(self) -> tuple[str, ...]:
        """Words that the tokenizer has a token of their own for; none where the family does not say."""
        return ()

    @property
    def text_norm(self) -> Any:
        """The LayerNorm that every token leaves the text encoder by; None where the denoiser reads another layer."""
        return None

    @abstractmethod
    def text_parameters(self) -> tuple[str, ...]:
        """Names, in the denoiser, of the weights of the linear maps that read the text."""

    @abstractmethod
    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Those weights one after the other, streamed from disk while the denoiser is not loaded."""

    def weights(self, part: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Tensors of `denoiser`, `vae` or a text encoder one after the other: those of these names, or all.

        A family whose files hold them by the same names may stream them from there while the part is not loaded.
        """
        module: nn.Module = getattr(self, part)
        for name, tensor in module.state_dict().items():
            if names is None or name in names:
                yield name, tensor.detach()

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline made of these very parts."""

    @abstractmethod
    def part_hash(self, part: str) -> str:
        """SHA-256 of one part's weights: of its files, or of its tensors where there are no files."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 over the weights of all parts."""
