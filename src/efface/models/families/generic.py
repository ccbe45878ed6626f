"""Any other diffusers pipeline whose denoiser takes `encoder_hidden_states`: PixArt, Sana, Qwen-Image, FLUX.2, Wan...

A prompt is embedded by the pipeline's own `encode_prompt`, with the default options of its call. The last subject token
is found from the ids that the text encoder receives (see `text.tokens`): the words of a prompt are followed by the same
tokens as the empty prompt (an end token, the end of a chat template, or nothing).

Attaching needs no more. To bake and export, the maps that read the text are found by a trace (see `text_readers`).
For transformers that normalise their text first, `normed_text` names the map instead, and the text is the output of
the norm. `predict`, and with it training, works for the pipelines in `calls`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from efface.errors import BadInput, BadRequest
from efface.models.denoising import Conditions
from efface.models.families.calls import (
    CALLS,
    CallInputs,
    TransformerCall,
    call_with_lists,
    with_mask,
    without_mask,
)
from efface.models.families.normed_text import NORMED_TEXTS, NormedText, normed
from efface.models.families.parts import PartsModel
from efface.models.flow import NoiseLevels
from efface.models.model import TEXT
from efface.models.modules import plain
from efface.models.parameters import Parameters
from efface.models.pretrained import class_of, from_diffusers
from efface.models.storage.folder import Folder
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import refuse_clip_skip
from efface.models.text.pipeline_text import (
    contains_token,
    encode_by_pipeline,
    encoding_options,
    moved_tokens,
    text_of,
)
from efface.models.text.tokens import Subjects, joined_calls, offsets_by_masks, recorded_ids, subjects
from efface.models.text_readers import find_text_readers, received_text

_OFFSET = "offset"  # key among the parts: the position of a token in the text encoder less the one in the text
_SIDE = 128  # latents along a side of an image, if neither the pipeline nor the transformer has a default
_PROBES = (["a cat", "dog"], ["a cat", "the red dog in a house"])  # different lengths of prompts and of batches


class Generic(PartsModel):
    """A model of which only the conventions of its pipeline are known."""

    family: ClassVar[str] = "generic"

    @classmethod
    def from_folder(cls, name: str, folder: Folder, device: torch.device, dtype: torch.dtype) -> Self:
        """See `PartsModel.from_folder`.

        Args:
            name: The name that the model was opened by.
            folder: Its files.
            device: The device of the parts.
            dtype: The type of the parts.

        Raises:
            BadInput: The denoiser does not take `encoder_hidden_states`.
        """
        _check_reads_text(class_of(folder, cls.denoiser_part), name)
        return super().from_folder(name, folder, device, dtype)

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> Self:
        """See `PartsModel.from_pipeline`.

        Raises:
            BadInput: The denoiser does not take `encoder_hidden_states`.
        """
        _check_reads_text(type(plain(getattr(pipeline, cls.denoiser_part))), type(pipeline).__name__)
        return super().from_pipeline(pipeline)

    @cached_property
    def _normed_text(self) -> NormedText | None:
        kind: Any = type(plain(self.denoiser)) if self._files is None else class_of(self._files, self.denoiser_part)
        return NORMED_TEXTS.get(kind.__name__)

    @property
    def streams(self) -> Mapping[str, str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The denoiser's argument for the text."""
        return PartsModel.streams if self._normed_text is None else {TEXT: self._normed_text.argument}

    @property
    def text_map(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Model.text_map`."""
        return None if self._normed_text is None else self._normed_text.linear

    @property
    def unedited(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Further arguments of the denoiser that carry text."""
        names = inspect.signature(plain(self.denoiser).forward).parameters
        others = [name for name in names if name.startswith(f"{self.streams[TEXT]}_") or "pooled" in name]
        return tuple(name for name in others if not any(word in name for word in ("mask", "image", "ids")))

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        parts = self.pipeline().components
        return tuple(part for name, part in parts.items() if name.startswith("text_encoder") and part is not None)

    @property
    def untrainable(self) -> str | None:
        kind = f"is a {self.pipeline_class}"
        if self._call is None:
            return f"{kind}; methods that train do not support it"
        if self._has("transformer_2") or self._call.unsupported(self.config(self.denoiser_part)):
            return f"{kind} with two transformers or a distilled guidance scale; methods that train do not support that"
        return None

    @property
    def _call(self) -> TransformerCall | None:
        return CALLS.get(self.pipeline_class)

    @property
    def noise_levels(self) -> NoiseLevels:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Model.noise_levels`."""
        return self._call.noise_levels if self._call else "even"

    @property
    def pixels_per_latent(self) -> int:
        pipeline = self.pipeline()
        return int(getattr(pipeline, "vae_scale_factor_spatial", None) or pipeline.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config, pipeline = self.config(self.denoiser_part), self.pipeline()
        channels = int(config["in_channels"]) // (4 if self._call and self._call.is_patched else 1)
        side = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        parameters = self.call_parameters or {}
        sizes = [parameters[name].default for name in ("height", "width")]
        h, w = (size // self.pixels_per_latent if isinstance(size, int) else int(side or _SIDE) for size in sizes)
        return channels, h, w

    def denoiser_text(self, embedded: Embedded) -> Tensor:
        return with_mask(embedded.argument, embedded.attention_mask)

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions, parameters: Parameters | None = None) -> Tensor:
        assert self._call is not None
        b = len(x)
        text, mask = without_mask(conditions.text.expand(b, -1, -1))
        inputs = CallInputs(x, t.expand(b), mask, self.config(self.denoiser_part))
        given = self._call.arguments(inputs)
        if self._call.has_lists:
            given, text = replace(given, x=given.x.to(self.device, self.dtype)), text.to(self.device, self.dtype)
            output = call_with_lists(self.denoiser, given, text, mask, parameters)
        else:
            output = super().predict(given.x, given.time, Conditions(text, given.others), parameters)
        return self._call.prediction(output, inputs)

    @property
    def max_tokens(self) -> int:
        longest = self._options().get("max_sequence_length") or self.tokenizer.model_max_length
        return int(longest)

    @property
    def width(self) -> int:
        if "width" not in self._parts:
            self._parts["width"] = self.embed([""]).tokens.shape[-1]
        return self._parts["width"]

    def text_parameters(self) -> tuple[str, ...]:
        if self.text_map is not None:
            return (f"{self.text_map}.weight",)
        if "readers" not in self._parts:
            self._parts["readers"] = find_text_readers(self.pipeline(), self.denoiser, self.streams[TEXT])
        return self._parts["readers"]

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        return super().text_files if self.text_map or "readers" in self._parts else None

    def _options(self, clip_skip: int | None = None) -> dict[str, Any]:
        options = encoding_options(self.pipeline())
        if "clip_skip" in options:
            options["clip_skip"] = clip_skip
        else:
            refuse_clip_skip(clip_skip, self.pipeline_class)
        return options

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        if not truncate:
            self._check_lengths(prompts)
        tokens, mask, places = self._encoded(prompts, clip_skip)
        read = None if mask is None else mask[:-2]
        text, unnormed = tokens.float().cpu()[:-2], None
        if self._normed_text is not None:
            text, unnormed = normed(plain(self.denoiser).get_submodule(self._normed_text.norm), text), text
        return Embedded(text, places.last[:-2], tuple(prompts), places.start, (), read, unnormed)

    def _encoded(self, prompts: list[str], clip_skip: int | None = None) -> tuple[Tensor, Tensor | None, Subjects]:
        """The text (n + 2, T, d) of prompts, of a word and of the empty prompt, its mask, and the prompts' subjects."""
        with recorded_ids(self.text_encoder) as calls:
            # A word and the empty prompt are added for comparison.
            outputs = encode_by_pipeline(self.pipeline(), [*prompts, "a", ""], self._options(clip_skip))
        tokens, output_mask = text_of(outputs)
        inputs = joined_calls(calls, len(tokens), int(self.tokenizer.pad_token_id or 0))
        if inputs is None:
            raise self._unmapped()
        ids, mask = inputs
        offset = self._parts.get(_OFFSET)
        if offset is not None or output_mask is None:
            offsets = [offset or 0] * len(tokens)
        else:
            offsets = offsets_by_masks(mask, output_mask)
        return tokens, output_mask, subjects(ids, mask, offsets, tokens.shape[1])

    def _check_encoding(self) -> None:
        """Find out which token carries the subject of a prompt, and check that it is the only one.

        Raises:
            BadInput: The text is not, token for token, the output of the first text encoder.
        """
        tokens, _, places = self._encoded(_PROBES[0])
        offsets = places.inputs[:2] - self._moved(_PROBES[0], tokens, places)
        if len(offsets.unique()) == 1:  # else the prompts are aligned in only one of the input and the output
            self._parts[_OFFSET] = int(offsets[0])
        for probes in _PROBES:
            tokens, _, places = self._encoded(probes)
            if not torch.equal(self._moved(probes, tokens, places), places.last[:2]):
                raise self._unmapped()
        received = received_text(self.pipeline(), self.denoiser, self.streams[TEXT], _PROBES[-1][0])
        if received is not None and not contains_token(received, tokens[0, places.last[0]]):
            raise BadInput(
                f"A {self.pipeline_class} changes the output of its text encoders before its denoiser reads it; efface "
                "cannot edit it."
            )

    def _moved(self, probes: list[str], tokens: Tensor, places: Subjects) -> Tensor:
        """The token of each of two prompts, (2,), that changes with the text encoder's output for its subject."""
        encode = lambda: self._encoded(probes)[0]  # noqa: E731
        others = [encoder for encoder in self.text_encoders if encoder is not self.text_encoder]
        moved = moved_tokens(tokens, encode, self.text_encoder, places.inputs)[:2]
        if any(len(row) != 1 for row in moved) or any(
            any(moved_tokens(tokens, encode, encoder, None)) for encoder in others
        ):
            raise self._unmapped()
        return torch.tensor(moved).flatten()

    def _unmapped(self) -> BadInput:
        return BadInput(
            f"Cannot find out which token of a prompt is its subject for a {self.pipeline_class}: its text is not, "
            "token for token, the output of its first text encoder."
        )

    def _check_lengths(self, prompts: list[str]) -> None:
        for prompt in prompts:
            length = len(self.tokenizer(prompt)["input_ids"])
            if length > self.max_tokens:
                raise BadRequest(
                    f"'{prompt[:60]}' has {length} tokens; the model takes at most {self.max_tokens}: use fewer words."
                )


def family_of(pipeline: str | type, name: str) -> type[Generic]:
    """The generic family for one kind of pipeline.

    Raises:
        BadInput: The installed diffusers has no such pipeline, or it takes no prompt.
    """
    kind: Any = pipeline if isinstance(pipeline, type) else from_diffusers(pipeline)
    class_name = pipeline.__name__ if isinstance(pipeline, type) else pipeline
    if not isinstance(kind, type):
        raise BadInput(f"{name} is a {class_name}, which the installed diffusers does not know; upgrade it.")
    missing = getattr(kind, "_backends", ())
    if missing:  # diffusers exports a placeholder
        raise BadInput(f"{name} is a {class_name}, which needs {', '.join(missing)}, not all of which are installed.")
    parts = inspect.signature(kind.__init__).parameters
    denoisers = [part for part in ("transformer", "unet") if part in parts]
    encodes = hasattr(kind, "encode_prompt") or hasattr(kind, "_encode_prompt")
    if not denoisers or not encodes or "text_encoder" not in parts:
        raise BadInput(
            f"{name} is a {class_name}, which takes no prompt by a text encoder that efface knows of; use another "
            "pipeline of the model."
        )
    if prior := next((part for part in parts if "prior" in part), None):
        raise BadInput(
            f"{name} is a {class_name}, whose {prior} reads the prompt too; efface does not edit what it reads."
        )
    return type(class_name, (Generic,), {"pipeline_class": class_name, "denoiser_part": denoisers[0]})


def _check_reads_text(denoiser: Any, name: str) -> None:
    argument = PartsModel.streams[TEXT]
    forward = getattr(denoiser, "forward", None)
    if denoiser.__name__ in NORMED_TEXTS:
        return
    if forward is None or argument not in inspect.signature(forward).parameters:
        raise BadInput(f"The denoiser of {name} ({denoiser.__name__}) takes no {argument}; efface cannot edit it.")
