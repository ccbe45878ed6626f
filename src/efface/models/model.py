"""The interface of every family of models: text encoding, denoising, and the parameters that read the text.

Shapes: n prompts, T tokens (padding included), d text width.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from efface.errors import BadInput
from efface.models.builtin import BuiltInFacts
from efface.models.denoising import Conditions, Schedule, call_denoiser, noise_schedule
from efface.models.flow import NoiseLevels
from efface.models.modules import parameters_of, state_of
from efface.models.parameters import Parameters
from efface.models.placement import check_editable
from efface.models.runtime import Runtime
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import SoftTokens

if TYPE_CHECKING:
    from efface.models.storage.folder import Folder

TEXT, POOLED = "text", "pooled"  # names of text streams


class Model(BuiltInFacts, ABC):
    """A text-to-image model whose parts are loaded when they are first used.

    A denoiser receives text by one or several streams: sequences of tokens, or one pooled vector. `embed`, `width`,
    `text_norm`, `text_parameters` and `text_weights` refer to one of them, `stream`, so that code works for each; see
    `reading`. What only some models have is a capability that callers query, such as `world` or `call_parameters`.

    Attributes:
        family: Name of the family ("sd").
        streams: For each text stream the name of the denoiser's argument; `text` comes first.
        text_map: The denoiser's linear map whose input is the stream `text`; None if the argument itself is.
        unedited: Further ways by which the denoiser receives text, which no eraser edits.
        stream: The text stream that this object reads.
        one_clip_encoder: Whether the text is the output of one CLIP text encoder.
        soft_tokens: Whether `encode` works, with embeddings in place of tokens.
        compvis_names: Whether the weights have names in the original code of Stable Diffusion (`storage.compvis`).
        runtime: How its parts are loaded and run; that of a pipeline is up to its owner.
        denoiser_part: The pipeline's name for the denoiser.
        noise_levels: How sampling spaces the noise levels of flow matching (`flow.set_timesteps`).
        with_guidance: If the denoiser reads a guidance scale, which is 1 in `denoiser_text`: texts with another one.
        name: The name that the model was opened by.
        folder: Its diffusers folder; None for a pipeline that was passed in.
    """

    family: ClassVar[str]
    streams: ClassVar[Mapping[str, str]] = {TEXT: "encoder_hidden_states"}
    text_map: str | None = None
    unedited: tuple[str, ...] = ()
    one_clip_encoder: ClassVar[bool] = False
    soft_tokens: ClassVar[bool] = False
    compvis_names: ClassVar[bool] = False
    runtime: Runtime = Runtime()
    stream: str = TEXT
    denoiser_part: ClassVar[str] = "transformer"
    noise_levels: NoiseLevels = "even"
    with_guidance: Callable[[Tensor, float | Tensor], Tensor] | None = None
    name: str
    folder: Path | None

    @property
    def untrainable(self) -> str | None:
        """Why the denoiser cannot be trained, as a predicate ("is of ..."); None if it can."""
        return f"is of the family {self.family}; methods that train do not support it"

    # A pipeline takes longer to answer than attaching an eraser may take; these are read when they are first needed.
    @cached_property
    def device(self) -> torch.device:
        """The device of the parts."""
        return self.pipeline().device

    @cached_property
    def dtype(self) -> torch.dtype:
        """The floating type of the parts."""
        return self.denoiser.dtype

    def reading(self, stream: str) -> Self:
        """The same model, with shared parts, for another of its text streams."""
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
        """Whether the stream has one; a pipeline may have dropped it to save memory."""
        return True

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """All text encoders that contribute to the embeddings; a change of their weights invalidates cached results."""
        return (self.text_encoder,)

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Names of the model's text encoders, in order."""
        return ("text_encoder",)

    def part(self, name: str) -> Any:
        """The module that holds the parameters with this prefix: `denoiser`, `vae`, or one of `encoder_parts`.

        Raises:
            BadInput: The model has no such part.
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
        """The autoencoder between images and latents."""

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per latent along one side of an image."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latents of an image of the model's default size."""
        config = self.denoiser.config
        height, width = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else config.sample_size
        return int(config.in_channels), int(height), int(width)

    @abstractmethod
    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a part, by the pipeline's name for it; the part is not loaded."""

    @property
    @abstractmethod
    def scheduler_config(self) -> Mapping[str, Any]:
        """The scheduler's configuration, with its `_class_name`."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Maximum number of tokens of a prompt, including start and end tokens."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width d of a text embedding."""

    @abstractmethod
    def embed(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        """Embed prompts as the stream carries them, without gradient; equal prompts are computed once.

        Args:
            prompts: The n prompts.
            clip_skip: Number of the text encoder's last layers to skip.
            truncate: Cut prompts that are too long instead of refusing them.
            batch_size: Prompts per forward pass.

        Returns:
            The embeddings, with tokens (n, T, d).

        Raises:
            BadRequest: A prompt is longer than the tokenizer's maximum, and `truncate` is false.
        """

    def last_tokens(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Tensor:
        """The last subject tokens only, (n, d), float32; a long list of preserved prompts needs no others.

        They equal those of `embed` up to rounding, and take less time if a token does not depend on the padding.

        Args:
            prompts: The n prompts.
            clip_skip: Number of the text encoder's last layers to skip.
            truncate: Cut prompts that are too long instead of refusing them.
            batch_size: Prompts per forward pass.

        Raises:
            BadRequest: A prompt is longer than the tokenizer's maximum, and `truncate` is false.
        """
        embedded = self.embed(prompts, clip_skip=clip_skip, truncate=truncate, batch_size=batch_size)
        return embedded.last_tokens

    def pooled(self, prompts: Sequence[str]) -> Tensor | None:
        """Pooled embeddings that the denoiser reads besides the tokens, (n, p), float32; None if it reads none.

        Raises:
            BadRequest: A prompt is longer than the tokenizer's maximum.
        """
        return self.reading(POOLED).embed(prompts).tokens[:, 0] if POOLED in self.streams else None

    def denoiser_text(self, embedded: Embedded) -> Tensor:
        """All that `predict` reads of n embedded prompts, (n, R, d), float32: their tokens; in some families more."""
        return embedded.argument

    def words(self) -> tuple[str, ...]:
        """All words that are one token of the tokenizer; empty if the family cannot list them."""
        return ()

    @property
    def text_norm(self) -> Any:
        """The LayerNorm that is the last operation on every token; None if there is none."""
        return None

    @abstractmethod
    def text_parameters(self) -> tuple[str, ...]:
        """Names of the denoiser's weights that read the stream, each the weight of a linear map.

        Raises:
            BadInput: Other operations read it too, so that a change of weights cannot replace a change of the text.
        """

    @abstractmethod
    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over `text_parameters` and their weights (n, d), from disk if the denoiser is not loaded."""

    @property
    @abstractmethod
    def files(self) -> Folder:
        """The model's files; `BadInput` for a loaded pipeline."""

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        """The files that `text_weights` streams from; empty if all is in memory; None if finding out takes long."""
        return None

    def weights(self, part: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the named tensors, of any shape, of `denoiser`, `vae` or a text encoder.

        A family whose files use the same names may stream them from there while the part is not loaded.

        Args:
            part: Name of the part.
            names: The tensors to return; None returns all.

        Raises:
            BadInput: One of them is quantised or not in memory.
        """
        network = self.part(part)
        for name, parameter in parameters_of(network).items():
            if names is None or name in names:
                check_editable(f"{part}.{name}", parameter)
        for name, tensor in state_of(network).items():
            if names is None or name in names:
                yield name, tensor.detach()

    def encode(self, ids: Tensor, *, clip_skip: int | None = None, soft: SoftTokens | None = None) -> Tensor:
        """Encode token ids as the denoiser reads them; unlike `embed`, gradients flow through the text encoder.

        Args:
            ids: Token ids, (n, T).
            clip_skip: Number of the text encoder's last layers to skip.
            soft: Embeddings in place of some tokens' own.

        Returns:
            What `predict` reads, (n, R, d), in the text encoder's type and on its device.

        Raises:
            BadInput: The model has no `soft_tokens`.
            BadRequest: The text encoder has too few layers for `clip_skip`.
        """
        raise BadInput(f"{self.name} does not read its text from one text encoder.")

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions, parameters: Parameters | None = None) -> Tensor:
        """Call the denoiser once, in its type and on its device; gradients flow to all arguments.

        Args:
            x: Noisy latents, scaled as the scheduler scales them, (b, C, h, w).
            t: Timesteps, (b,), or a scalar for all samples.
            conditions: What else the denoiser reads, with the text of `denoiser_text`.
            parameters: What differs from the denoiser's own parameters.

        Returns:
            The prediction (noise, velocity or flow, as the model is trained), (b, C, h, w), float32.
        """
        device, dtype = self.device, self.dtype
        return call_denoiser(self.denoiser, x.to(device, dtype), t.to(device), conditions.to(device, dtype), parameters)

    def noise_schedule(self) -> Schedule:
        """How the model adds noise in training, and what it predicts of it."""
        return noise_schedule(self.scheduler_config)

    @property
    def call_parameters(self) -> Mapping[str, inspect.Parameter] | None:
        """Parameters of the pipeline's call, if images are made by calling it; None if efface's own sampler is used."""
        return None

    @property
    def guidance_argument(self) -> str | None:
        """The name of the pipeline's argument for the guidance scale; None if it has none."""
        return None

    @property
    def pipeline_arguments(self) -> Mapping[str, int]:
        """Arguments of the pipeline's call that differ from the pipeline's defaults, by name."""
        return {} if self.built_in is None else self.built_in.pipeline_arguments

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline of the same parts."""

    @property
    def guided(self) -> bool | None:
        """Whether the pipeline runs guidance in one batch with the prompts; None if unknown."""
        return None

    @abstractmethod
    def part_hash(self, part: str) -> str:
        """SHA-256 of one part's weights: of its files, or of its tensors if there are no files."""

    @abstractmethod
    def hash_ahead(self, part: str) -> None:
        """Start to compute a part's hash in the background; the next `part_hash` waits for it."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 of the weights of all parts and of the erasers that are attached or baked."""
