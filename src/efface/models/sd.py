"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, and a U-Net that reads it by cross-attention.

A prompt is embedded as the pipeline does it: padded to the tokenizer's maximum, without attention mask, last hidden
state after the final layer norm. The text is read by every `attn2.to_k` and `attn2.to_v`, which have no bias.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from efface.errors import BadRequest
from efface.files import sha256_of_file, sha256_of_tensors
from efface.models.base import Embedded, Model
from efface.models.folder import Folder
from efface.models.load import load_part

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

_READERS = ("attn2.to_k.weight", "attn2.to_v.weight")
_SHORT = 256  # prompts without padding in one forward pass
_WEIGHED = ("text_encoder", "unet", "vae")


class StableDiffusion(Model):
    """A Stable Diffusion model, from a folder or from the parts of a pipeline."""

    family: ClassVar[str] = "sd"

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.name = name
        self.folder = None
        self.device = device
        self.dtype = dtype
        self._files: Folder | None = None
        self._parts: dict[str, Any] = {}
        self._pipeline: Any = None

    @classmethod
    def from_folder(cls, name: str, folder: Folder, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
        """A model whose parts are loaded from a diffusers folder when they are needed."""
        model = cls(name, device, dtype)
        model.folder, model._files = folder.root, folder
        return model

    @classmethod
    def from_pipeline(cls, pipeline: StableDiffusionPipeline) -> StableDiffusion:
        """A model that shares a loaded pipeline's parts."""
        name = str(pipeline.config.get("_name_or_path") or type(pipeline).__name__)
        model = cls(name, pipeline.device, pipeline.unet.dtype)
        model._pipeline = pipeline
        return model

    @property
    def tokenizer(self) -> Any:
        return self._part("tokenizer")

    @property
    def text_encoder(self) -> nn.Module:
        return self._part("text_encoder")

    @property
    def has_text_encoder(self) -> bool:
        return self._pipeline is None or self._pipeline.text_encoder is not None

    @property
    def denoiser(self) -> Any:
        return self._part("unet")

    @property
    def vae(self) -> Any:
        return self._part("vae")

    def _part(self, part: str) -> Any:
        if self._pipeline is not None:
            return getattr(self._pipeline, part)
        if part not in self._parts:
            self._parts[part] = load_part(self._disk, part, self.device, self.dtype)
        return self._parts[part]

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        if self._pipeline is not None:
            return dict(self._pipeline.scheduler.config, _class_name=type(self._pipeline.scheduler).__name__)
        return self._disk.config("scheduler")

    @property
    def _text_config(self) -> Mapping[str, Any]:
        if self._files is None:
            return self._pipeline.text_encoder.config.to_dict()
        return self._files.config("text_encoder")

    @property
    def max_tokens(self) -> int:
        return min(int(self.tokenizer.model_max_length), int(self._text_config["max_position_embeddings"]))

    @property
    def width(self) -> int:
        config = self._pipeline.unet.config if self._files is None else self._files.config("unet")
        return int(config["cross_attention_dim"])

    def embed(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        if not prompts:
            return Embedded(torch.zeros(0, self.max_tokens, self.width), torch.zeros(0, dtype=torch.long), ())
        distinct = list(dict.fromkeys(prompts))
        ids, lengths = self._token_ids(distinct, truncate)
        pieces = [
            self._encode(ids[first : first + batch_size], clip_skip or 0) for first in range(0, len(ids), batch_size)
        ]
        row = {prompt: index for index, prompt in enumerate(distinct)}
        order = torch.tensor([row[prompt] for prompt in prompts], dtype=torch.long)
        return Embedded(torch.cat(pieces)[order], lengths[order] - 2, tuple(prompts))

    def _token_ids(self, prompts: list[str], truncate: bool) -> tuple[Tensor, Tensor]:
        """Padded ids (n, T), and how many of each prompt's are no padding, (n,)."""
        longest = self.max_tokens
        rows: list[list[int]] = self.tokenizer(prompts)["input_ids"]
        for index, row in enumerate(rows):
            if len(row) > longest:
                if not truncate:
                    raise BadRequest(
                        f"'{prompts[index][:60]}' has {len(row)} tokens with start and end; "
                        f"the model's tokenizer takes at most {longest}: say it in fewer words."
                    )
                rows[index] = [*row[: longest - 1], row[-1]]
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        return ids, torch.tensor([len(row) for row in rows], dtype=torch.long)

    def embed_last(self, prompts: Sequence[str], *, clip_skip: int | None = None) -> Tensor:
        if not prompts:
            return torch.zeros(0, self.width)
        ids, lengths = self._token_ids(list(prompts), truncate=False)
        pieces: list[Tensor] = []
        for some, last in zip(ids.split(_SHORT), (lengths - 2).split(_SHORT), strict=True):
            # Attention is causal: what comes after a token does not change it.
            tokens = self._encode(some[:, : int(last.max()) + 1], clip_skip or 0)
            pieces.append(tokens[torch.arange(len(last)), last])
        return torch.cat(pieces)

    def words(self) -> tuple[str, ...]:
        pieces = [piece.removesuffix("</w>") for piece in self.tokenizer.get_vocab() if piece.endswith("</w>")]
        words = sorted(piece for piece in pieces if piece.isascii() and piece.isalpha())
        return tuple(word for word, row in zip(words, self.tokenizer(words)["input_ids"], strict=True) if len(row) == 3)

    @torch.no_grad()
    def _encode(self, ids: Tensor, clip_skip: int) -> Tensor:
        encoder: Any = self.text_encoder
        ids = ids.to(encoder.device)
        if clip_skip == 0:
            return encoder(ids)[0].float().cpu()
        layers = int(self._text_config["num_hidden_layers"])
        if clip_skip >= layers:
            raise BadRequest(f"clip_skip is {clip_skip}, but the text encoder has {layers} layers; skip fewer.")
        states = encoder(ids, output_hidden_states=True).hidden_states
        return self.text_norm(states[-(clip_skip + 1)]).float().cpu()

    @property
    def text_norm(self) -> Any:
        encoder: Any = self.text_encoder
        # transformers 4 has the layers one level further down.
        return getattr(encoder, "text_model", encoder).final_layer_norm

    def text_parameters(self) -> tuple[str, ...]:
        names = self.denoiser.state_dict() if self._denoiser_loaded else self._disk.names("unet")
        return tuple(name for name in names if name.endswith(_READERS))

    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        names = self.text_parameters()
        if self._denoiser_loaded:
            yield from ((name, self.denoiser.get_parameter(name).detach()) for name in names)
        else:
            yield from self._disk.tensors("unet", names)

    def weights(self, part: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        if part != "denoiser" or self._denoiser_loaded:
            return super().weights(part, names)
        return self._disk.tensors("unet", self._disk.names("unet") if names is None else names)

    @property
    def _denoiser_loaded(self) -> bool:
        return self._pipeline is not None or "unet" in self._parts

    @property
    def _disk(self) -> Folder:
        assert self._files is not None
        return self._files

    def pipeline(self) -> StableDiffusionPipeline:
        if self._pipeline is None:
            import diffusers
            from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

            kind: Any = StableDiffusionPipeline
            scheduler: Any = getattr(diffusers, self.scheduler_config["_class_name"])
            self._pipeline = kind(
                vae=self.vae,
                text_encoder=self.text_encoder,
                tokenizer=self.tokenizer,
                unet=self.denoiser,
                scheduler=scheduler.from_config(dict(self.scheduler_config)),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        return self._pipeline

    def part_hash(self, part: str) -> str:
        if self._files is None:
            return sha256_of_tensors(self._part(part).state_dict())
        files = [sha256_of_file(path) for path in self._files.weights(part)]
        return files[0] if len(files) == 1 else hashlib.sha256("".join(files).encode()).hexdigest()

    @property
    def hash(self) -> str:
        return hashlib.sha256("".join(self.part_hash(part) for part in _WEIGHED).encode()).hexdigest()
