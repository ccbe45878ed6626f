"""Base classes of the families: models with parts from a folder, a checkpoint or a loaded pipeline of diffusers."""

from __future__ import annotations

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_tensors
from efface.models.active import hash_with_active
from efface.models.model import POOLED, TEXT, Model
from efface.models.modules import parameters_of, state_of
from efface.models.placement import dequantised, numbers_of
from efface.models.pretrained import class_of, from_diffusers, load_part
from efface.models.runtime import offload_parts, prepare_denoiser
from efface.models.storage.completeness import check_tokenizer
from efface.models.storage.folder import Folder, has_weights
from efface.models.text.embedded import Embedded
from efface.models.text.pipeline_text import encode_by_pipeline, encoding_options, has_output, is_encoded_by

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

_PIPELINE = "pipeline"  # key among the parts, once there is one
_PROBES = ("a cat", "dog")
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # they do not affect images


class PartsModel(Model):
    """A model in parts.

    Attributes:
        pipeline_class: Name of the family's text-to-image pipeline in diffusers.
        encoders: For each stream the pipeline's names for the text encoders.
        readers: For each stream the endings of the names of the weights that read it.
    """

    pipeline_class: ClassVar[str]
    encoders: ClassVar[Mapping[str, tuple[str, ...]]] = {TEXT: ("text_encoder",)}
    readers: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = None
        self._files: Folder | None = None
        self._parts: dict[str, Any] = {}
        self._ahead: dict[str, Future[str]] = {}

    @classmethod
    def from_folder(cls, name: str, folder: Folder, device: torch.device, dtype: torch.dtype) -> Self:
        """A model whose parts are loaded from disk when they are needed.

        Args:
            name: The name that the model was opened by.
            folder: Its files.
            device: The device of the parts.
            dtype: The type of the parts.
        """
        model = cls(name)
        model.device, model.dtype = device, dtype
        model.folder, model._files = folder.root, folder
        return model

    @classmethod
    def from_pipeline(cls, pipeline: DiffusionPipeline) -> Self:
        """A model that shares the parts of a loaded pipeline."""
        name = str(pipeline.config.get("_name_or_path") or type(pipeline).__name__)
        model = cls(name)
        model._parts[_PIPELINE] = pipeline
        return model

    @property
    def tokenizer(self) -> Any:
        return self._part("tokenizer")

    @property
    def text_encoder(self) -> nn.Module:
        return self._part("text_encoder")

    @property
    def has_text_encoder(self) -> bool:
        return all(self._has(part) for part in self.encoders[self.stream])

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        return tuple(self._part(name) for name in self.encoder_parts)

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        names = {part for parts in self.encoders.values() for part in parts}
        return tuple(name for name in sorted(names) if self._has(name))

    def part(self, name: str) -> Any:
        return self._part(name) if name in self.encoder_parts else super().part(name)

    @property
    def denoiser(self) -> Any:
        return self._part(self.denoiser_part)

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** (len(self.config("vae")["block_out_channels"]) - 1)

    @property
    def vae(self) -> Any:
        return self._part("vae")

    def _part(self, part: str) -> Any:
        if _PIPELINE in self._parts:
            return getattr(self._parts[_PIPELINE], part)
        if self.runtime.offload != "none" and has_weights(class_of(self._disk, part)):
            return getattr(self.pipeline(), part)  # parts make room for each other in the pipeline's order
        return self._loaded(part)

    def _loaded(self, part: str) -> Any:
        if part not in self._parts:
            runtime, device = self.runtime, self.device
            is_changed = part == self.denoiser_part and runtime.is_changing
            first = torch.device("cpu") if is_changed or runtime.offload != "none" else device
            loaded = load_part(self._disk, part, first, self.dtype)
            if is_changed:
                readers = [name for stream in self.streams for name in self.reading(stream).text_parameters()]
                loaded = prepare_denoiser(loaded, runtime, device, self.dtype, readers)
            self._parts[part] = loaded
        return self._parts[part]

    def _tokenizing(self, part: str) -> Any:
        """The tokenizer for embedding prompts: that of transformers, or one with the same ids."""
        return self._part(part)

    def _has(self, part: str) -> bool:
        """Whether the model has an optional part."""
        if _PIPELINE in self._parts:
            return getattr(self._parts[_PIPELINE], part, None) is not None
        return bool((self._disk.index().get(part) or [None])[0])

    def config(self, part: str) -> Mapping[str, Any]:
        if _PIPELINE not in self._parts:
            return self._disk.config(part)
        config = getattr(self._parts[_PIPELINE], part).config
        return config if isinstance(config, Mapping) else config.to_dict()

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        config = dict(self.config("scheduler"))
        if _PIPELINE in self._parts:
            config["_class_name"] = type(self._parts[_PIPELINE].scheduler).__name__
        return config

    def embed(
        self, prompts: Sequence[str], *, clip_skip: int | None = None, truncate: bool = False, batch_size: int = 64
    ) -> Embedded:
        if not prompts:
            return Embedded(torch.zeros(0, self.max_tokens, self.width), torch.zeros(0, dtype=torch.long), ())
        self._check_encoding_once()
        distinct = list(dict.fromkeys(prompts))
        batches = [distinct[first : first + batch_size] for first in range(0, len(distinct), batch_size)]
        with torch.no_grad():
            embedded = Embedded.stacked([self._encode(batch, clip_skip, truncate) for batch in batches])
        row = {prompt: index for index, prompt in enumerate(distinct)}
        return embedded.take([row[prompt] for prompt in prompts])

    def _check_encoding_once(self) -> None:
        key = f"checked {self.stream}"
        if key not in self._parts:
            if not self.has_text_encoder:
                missing = next(part for part in self.encoders[self.stream] if not self._has(part))
                raise BadInput(f"{self.name} has no {missing}, which encodes its prompts; open the model with it.")
            for part in self.encoder_parts:
                tokenizer = part.replace("text_encoder", "tokenizer")
                if self._has(tokenizer):
                    check_tokenizer(self.name, self._tokenizing(tokenizer), _vocabulary(self.config(part)))
            with torch.no_grad():
                self._check_encoding()
            self._parts[key] = True

    def _check_encoding(self) -> None:
        """Check that a loaded pipeline of another class than the family's encodes its prompts as the family does."""
        pipeline = self._parts.get(_PIPELINE)
        if pipeline is None or is_encoded_by(pipeline, self.pipeline_class):
            return
        options = encoding_options(pipeline)
        options |= {name: value for name, value in self.pipeline_arguments.items() if name in options}
        embedded = self._encode(list(_PROBES), clip_skip=None, truncate=False).tokens
        if not has_output(encode_by_pipeline(pipeline, list(_PROBES), options), embedded):
            raise BadInput(
                f"A {type(pipeline).__name__} encodes prompts differently from a {self.pipeline_class} with the same "
                "parts; efface cannot edit its text."
            )

    @abstractmethod
    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        """Embed one batch of different prompts."""

    def text_parameters(self) -> tuple[str, ...]:
        names = parameters_of(self.denoiser) if self._denoiser_loaded else self._disk.names(self.denoiser_part)
        readers = tuple(name for name in names if name.endswith(self.readers[self.stream]))
        if missing := sorted(set(self._expected_readers()) - set(readers)):
            reason = "its files are incomplete, or it is quantised by an unknown tool"
            raise BadFile(f"The {self.denoiser_part} of {self.name} has no {missing[0]}; {reason}.")
        return readers

    def _expected_readers(self) -> tuple[str, ...]:
        """The names of the weights that read the stream, as far as they follow from the denoiser's configuration."""
        return self.readers[self.stream]

    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        names = self.text_parameters()
        if self._denoiser_loaded and self.runtime.offload != "sequential":
            yield from ((name, numbers_of(self.denoiser, name)) for name in names)
        else:
            for name, weight in self._disk.tensors(self.denoiser_part, names):
                if weight.ndim != 2 or weight.shape[1] != self.width:
                    raise BadFile(
                        f"{name} of {self.name} is {tuple(weight.shape)}, and its text {self.width} wide; its "
                        "files are of different models."
                    )
                yield name, weight

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        in_memory = self._denoiser_loaded and self.runtime.offload != "sequential"
        return () if in_memory else self._disk.here(self.denoiser_part) or None

    def weights(self, part: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        # Weights that are quantised or on the device meta cannot be edited: the files still have the model's.
        in_files = self.runtime.offload == "sequential" or self.runtime.quantize != "none"
        if part != "denoiser" or (self._denoiser_loaded and not in_files):
            return super().weights(part, names)
        stored = self.denoiser_part
        return self._disk.tensors(stored, self._disk.names(stored) if names is None else names)

    @property
    def _denoiser_loaded(self) -> bool:
        return _PIPELINE in self._parts or self.denoiser_part in self._parts

    @property
    def files(self) -> Folder:
        """The model's files.

        Raises:
            BadInput: The model is a loaded pipeline.
        """
        if self._files is None:
            raise BadInput(f"{self.name} is a loaded pipeline; give its folder.")
        return self._files

    @property
    def _disk(self) -> Folder:
        assert self._files is not None
        return self._files

    @property
    def call_parameters(self) -> Mapping[str, inspect.Parameter] | None:
        return inspect.signature(from_diffusers(self.pipeline_class).__call__).parameters

    @property
    def guidance_argument(self) -> str | None:
        parameters = self.call_parameters or {}
        names = (name for name in ("guidance_scale", "true_cfg_scale") if name in parameters)
        return next((name for name in names if isinstance(parameters[name].default, (int, float))), None)

    def pipeline(self) -> Any:
        if _PIPELINE not in self._parts:
            self._parts[_PIPELINE] = self._assembled()
        return self._parts[_PIPELINE]

    def _assembled(self) -> Any:
        index, kind = self._disk.index(), from_diffusers(self.pipeline_class)
        arguments: dict[str, Any] = {}
        for name in inspect.signature(kind.__init__).parameters:
            value = index.get(name)
            if name in _LEFT_OUT:
                arguments[name] = None
            elif name == "scheduler":
                scheduler = from_diffusers(self.scheduler_config["_class_name"])
                arguments[name] = scheduler.from_config(dict(self.scheduler_config))
            elif isinstance(value, list):
                arguments[name] = self._loaded(name) if self._has(name) else None
            elif value is not None:
                arguments[name] = value
        if "requires_safety_checker" in arguments:
            arguments["requires_safety_checker"] = False
        try:
            pipeline = kind(**arguments)
        except TypeError as error:
            raise BadInput(f"{self.name} lacks parts of a {self.pipeline_class} ({error}).") from error
        if self.runtime.offload != "none":
            offload_parts(pipeline, self.runtime.offload, self.device)
        return pipeline

    @property
    def guided(self) -> bool | None:
        return getattr(self._parts.get(_PIPELINE), "do_classifier_free_guidance", None)

    def part_hash(self, part: str) -> str:
        if self._files is None:
            return sha256_of_tensors({name: dequantised(one) for name, one in state_of(self._part(part)).items()})
        ahead = self._ahead.pop(part, None)
        return ahead.result() if ahead else self._files.hash(part)

    def hash_ahead(self, part: str) -> None:
        # A part that has to be downloaded first is not downloaded twice at once.
        if self._files is not None and self._files.fetch is None and part not in self._ahead:
            background = ThreadPoolExecutor(1)
            self._ahead[part] = background.submit(self._files.hash, part)
            background.shutdown(wait=False)

    @property
    def hash(self) -> str:
        parts = dict.fromkeys(part for encoders in self.encoders.values() for part in encoders)
        hashed = [part for part in (*parts, self.denoiser_part, "vae") if self._has(part)]
        weights = hashlib.sha256("".join(self.part_hash(part) for part in hashed).encode()).hexdigest()
        return hash_with_active(weights, self.denoiser) if self._denoiser_loaded else weights


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """The number of tokens of a text encoder, which may have its settings one level further down."""
    nested = config.get("text_config")
    return config.get("vocab_size") or (nested.get("vocab_size") if isinstance(nested, Mapping) else None)


class TwoStreamModel(PartsModel):
    """A model whose transformer reads tokens and a pooled embedding: SD3 and FLUX."""

    streams: ClassVar[Mapping[str, str]] = {TEXT: "encoder_hidden_states", POOLED: "pooled_projections"}
    readers: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TEXT: ("context_embedder.weight",),
        POOLED: ("time_text_embed.text_embedder.linear_1.weight",),
    }

    @property
    def width(self) -> int:
        name = {TEXT: "joint_attention_dim", POOLED: "pooled_projection_dim"}[self.stream]
        return int(self.config("transformer")[name])
