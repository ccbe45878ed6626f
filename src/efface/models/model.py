"""What every family of models offers: prompts to embeddings, and the parameters that read them.

Shapes: n prompts, T tokens (padding included), d text width.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from efface.errors import BadInput
from efface.models.builtin import BuiltIn, World
from efface.models.denoising import Conditions, NoiseSchedule, call_denoiser
from efface.models.modules import state_of
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import SoftTokens

if TYPE_CHECKING:
    from torch import nn

TEXT, POOLED = "text", "pooled"  # names of text streams


class Model(ABC):
    """A text-to-image model whose parts are loaded when they are first used.

    Text enters a denoiser by one stream or several: sequences of tokens, or one pooled vector. `embed`, `width`,
    `text_norm`, `text_parameters` and `text_weights` are of one of them, `stream`; `reading` gives the same model for
    another. So what is written for a model works for each of its streams.

    Attributes:
        family: name of the family ("sd").
        streams: by the name of each text stream, the argument of the denoiser that it enters by; `text` comes first.
        unedited: how else text enters, that no eraser edits.
        stream: the text stream that this object reads.
        one_clip_encoder: whether the text is the output of one CLIP text encoder, so that `encode` works.
        compvis_names: whether the original code of Stable Diffusion has names for its weights (`storage.compvis`).
        built_in: what is known of a model that is part of the package; None for any other.
        name: what the model was opened by.
        folder: the diffusers folder it comes from; None for a pipeline given by hand.
    """

    family: ClassVar[str]
    streams: ClassVar[Mapping[str, str]] = {TEXT: "encoder_hidden_states"}
    unedited: tuple[str, ...] = ()
    one_clip_encoder: ClassVar[bool] = False
    compvis_names: ClassVar[bool] = False
    built_in: BuiltIn | None = None
    stream: str = TEXT
    name: str
    folder: Path | None

    @property
    def world(self) -> World | None:
        """The closed world that the model draws: its objects, styles and words; None for an open world."""
        return None if self.built_in is None else self.built_in.world()

    @property
    def default_judge(self) -> str | None:
        """Name of the judge for this model's images if the user names none; None if the user must choose."""
        return None if self.world is None else self.world.judge

    @property
    def clip(self) -> str | None:
        """Name, for `open_clip`, of a CLIP that was trained on this model's images; None if there is none."""
        return None if self.world is None else self.world.clip

    @property
    def sampling(self) -> Mapping[str, float] | None:
        """Sampling settings that this model's images are best with; None if its family or pipeline decides."""
        return None if self.built_in is None else self.built_in.sampling

    @property
    def untrainable(self) -> str | None:
        """Why the training loop cannot train the denoiser, as a predicate of the model; None if it can."""
        return f"is of the family {self.family}; methods that train take Stable Diffusion 1 and 2"

    # Asking a pipeline for these takes longer than attaching an eraser may: they are found out when they are needed.
    @cached_property
    def device(self) -> torch.device:
        """Where parts are put."""
        return self.pipeline().device

    @cached_property
    def dtype(self) -> torch.dtype:
        """The parts' floating type."""
        return self.denoiser.dtype

    def reading(self, stream: str) -> Self:
        """This model, its parts shared, reading another of its text streams."""
        assert stream in self.streams
        if stream == self.stream:
            return self
        other = copy(self)
        other.stream = stream
        return other

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
        """Whether the stream has one; a pipeline may have given it up to save memory."""
        return True

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """All that makes the embeddings; what efface knows of them it forgets when one of their weights changes."""
        return (self.text_encoder,)

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Names of the text encoders that the model has, the first one's first."""
        return ("text_encoder",)

    def part(self, name: str) -> Any:
        """What holds the parameters whose full names begin so: `denoiser`, `vae`, or one of `encoder_parts`.

        Raises:
            BadInput: the model has no such part.
        """
        if name not in ("denoiser", "vae", *self.encoder_parts):
            raise BadInput(f"{self.name} has no part '{name}'; the eraser is for another model.")
        return getattr(self, name)

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
        """Embed prompts as the stream has them; equal prompts are computed once.

        Args:
            prompts: n prompts.
            clip_skip: how many of the text encoder's last layers to skip.
            truncate: cut prompts that are too long instead of refusing them.
            batch_size: prompts a forward pass.

        Raises:
            BadRequest: a prompt is longer than the tokenizer's maximum, and `truncate` is false.
        """

    def last_tokens(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Tensor:
        """The last subject tokens alone, (n, d), float32: all that is read of a long list of prompts to preserve.

        As `embed` gives them, but for rounding; faster where a token does not depend on the padding after it.
        """
        embedded = self.embed(prompts, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        return embedded.last_tokens

    def pooled(self, prompts: Sequence[str]) -> Tensor | None:
        """What the denoiser reads of prompts beside their tokens, (n, p), float32; None if nothing that efface knows.

        Raises:
            BadRequest: a prompt is longer than the tokenizer's maximum.
        """
        return self.reading(POOLED).embed(prompts).tokens[:, 0] if POOLED in self.streams else None

    def words(self) -> tuple[str, ...]:
        """Words that the tokenizer has a token of their own for; none where the family does not say."""
        return ()

    @property
    def text_norm(self) -> Any:
        """The LayerNorm that every token leaves its text encoder by; None where there is none, or it is not last."""
        return None

    @abstractmethod
    def text_parameters(self) -> tuple[str, ...]:
        """Names, in the denoiser, of the weights of the linear maps that read the stream.

        Raises:
            BadInput: something else than linear maps reads it, so that no change of weights is a change of the text.
        """

    @abstractmethod
    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Those weights one after the other, streamed from disk while the denoiser is not loaded."""

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        """The files that `text_weights` streams from; none where all is in memory; None where it takes long to say."""
        return None

    def weights(self, part: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Tensors of `denoiser`, `vae` or a text encoder one after the other: those of these names, or all.

        A family whose files hold them by the same names may stream them from there while the part is not loaded.
        """
        for name, tensor in state_of(self.part(part)).items():
            if names is None or name in names:
                yield name, tensor.detach()

    def encode(self, ids: Tensor, *, clip_skip: int | None = None, soft: SoftTokens | None = None) -> Tensor:
        """Encode token ids as the denoiser reads them; unlike `embed`, gradients flow through the text encoder.

        Args:
            ids: Token ids, (n, T).
            clip_skip: Number of the text encoder's last layers to skip.
            soft: Embeddings in place of some tokens' own.

        Returns:
            The prompt embeddings, (n, T, d), in the text encoder's type and on its device.

        Raises:
            BadInput: The text is not the output of one CLIP text encoder.
            BadRequest: The text encoder has too few layers for `clip_skip`.
        """
        raise BadInput(f"{self.name} does not read its text from one CLIP text encoder.")

    def predict(
        self, x: Tensor, t: Tensor, conditions: Conditions, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Call the denoiser once, in its type and on its device; gradients flow to all arguments.

        Args:
            x: Noisy latents, scaled as the scheduler scales them, (b, C, h, w).
            t: Timesteps, (b,), or a scalar for all samples.
            conditions: What else the denoiser reads.
            parameters: Tensors to use in place of the denoiser's own parameters, by name.

        Returns:
            The prediction (noise, velocity or flow, as the model is trained), (b, C, h, w), float32.
        """
        device, dtype = self.device, self.dtype
        return call_denoiser(self.denoiser, x.to(device, dtype), t.to(device), conditions.to(device, dtype), parameters)

    def noise_schedule(self) -> NoiseSchedule:
        """How the model adds noise in training, and what it predicts of it.

        Raises:
            BadInput: The model is not trained on a schedule of betas.
        """
        return NoiseSchedule(self.scheduler_config)

    @property
    def called(self) -> Mapping[str, inspect.Parameter] | None:
        """What the pipeline's call takes, where pictures are made by calling it; None where efface samples itself."""
        return None

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline made of these very parts."""

    @property
    def guided(self) -> bool | None:
        """Whether the pipeline runs guidance in one batch with the prompts; None where it does not say."""
        return None

    @abstractmethod
    def part_hash(self, part: str) -> str:
        """SHA-256 of one part's weights: of its files, or of its tensors where there are no files."""

    @abstractmethod
    def hash_ahead(self, part: str) -> None:
        """Begin to compute a part's hash beside other work, where it takes long; `part_hash` gives it once."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 over the weights of all parts, and over the erasers that are attached or baked."""
