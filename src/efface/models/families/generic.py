"""Any other diffusers pipeline whose denoiser takes `encoder_hidden_states`: PixArt, Sana, Qwen-Image, FLUX.2, Wan...

A prompt is embedded by the pipeline's own `encode_prompt`, with the options that its call has by default. Which of the
tokens is the last subject token is told by the ids that the text encoder is given: behind a prompt's words stand the
tokens that end the empty prompt too (an end token, the close of a chat template, nothing).

Attaching needs no more. To bake and export, the maps that read the text are found by watching (see `watching`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from efface.errors import BadInput, BadRequest
from efface.models.families.parts import PartsModel
from efface.models.model import TEXT
from efface.models.modules import plain
from efface.models.pretrained import class_of
from efface.models.storage.folder import Folder
from efface.models.text.embedded import Embedded
from efface.models.text.encoding import refuse_clip_skip
from efface.models.text.tokens import listening, padded, subjects
from efface.models.text_readers import read_by


class Generic(PartsModel):
    """A model of which efface knows nothing but its pipeline's conventions."""

    family: ClassVar[str] = "generic"

    @classmethod
    def from_folder(cls, name: str, folder: Folder, device: torch.device, dtype: torch.dtype) -> Self:
        _check_reads_text(class_of(folder, cls.denoiser_part), name)
        return super().from_folder(name, folder, device, dtype)

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> Self:
        _check_reads_text(type(plain(getattr(pipeline, cls.denoiser_part))), type(pipeline).__name__)
        return super().from_pipeline(pipeline)

    @property
    def unedited(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        names = inspect.signature(plain(self.denoiser).forward).parameters
        others = [name for name in names if name.startswith(f"{self.streams[TEXT]}_") or "pooled" in name]
        return tuple(name for name in others if not any(word in name for word in ("mask", "image", "ids")))

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        parts = self.pipeline().components
        return tuple(part for name, part in parts.items() if name.startswith("text_encoder") and part is not None)

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
        if "readers" not in self._parts:
            self._parts["readers"] = read_by(self.pipeline(), self.denoiser, self.streams[TEXT])
        return self._parts["readers"]

    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.text_parameters():
            yield name, self.denoiser.get_parameter(name).detach()

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        return super().text_files if "readers" in self._parts else None

    def _options(self) -> dict[str, Any]:
        """Arguments of `encode_prompt` as the pipeline's call has them."""
        pipeline = self.pipeline()
        called = inspect.signature(pipeline.__call__).parameters
        options: dict[str, Any] = {}
        for name, parameter in inspect.signature(pipeline.encode_prompt).parameters.items():
            default = called[name].default if name in called else parameter.default
            if default is not inspect.Parameter.empty:
                options[name] = default
        own = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        return options | {name: value for name, value in own.items() if name in options}

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        options = self._options()
        if "clip_skip" in options:
            options["clip_skip"] = clip_skip
        else:
            refuse_clip_skip(clip_skip, self.pipeline_class)
        if not truncate:
            self._check_lengths(prompts)
        with listening(self.text_encoder) as heard:
            # A word and the empty prompt come along to be compared with.
            found: Any = self.pipeline().encode_prompt(**{**options, "prompt": [*prompts, "a", ""]})
        outputs = found if isinstance(found, tuple) else (found,)
        tokens, kept = padded(outputs[0])
        masks = [out for out in outputs[1:] if isinstance(out, Tensor) and out.shape == tokens.shape[:2]]
        kept = kept if kept is not None else masks[0].bool().cpu() if masks else None
        if not heard or len(heard[0][0]) != len(tokens):
            raise BadInput(f"Which token of a prompt is its subject cannot be told for a {self.pipeline_class}.")
        ids, mask = heard[0]
        mask = ids != self.tokenizer.pad_token_id if mask is None else mask.bool()
        last, start = subjects(ids, mask, kept, tokens.shape[1])
        read = None if kept is None else kept[:-2]
        return Embedded(tokens.float().cpu()[:-2], last[:-2], tuple(prompts), start, kept=read)

    def _check_lengths(self, prompts: list[str]) -> None:
        for prompt in prompts:
            length = len(self.tokenizer(prompt)["input_ids"])
            if length > self.max_tokens:
                raise BadRequest(
                    f"'{prompt[:60]}' has {length} tokens; the model takes at most {self.max_tokens}: "
                    "say it in fewer words."
                )


def family_of(pipeline: str | type, name: str) -> type[Generic]:
    """The generic family for one kind of pipeline.

    Raises:
        BadInput: diffusers has no such pipeline, or it takes no prompt.
    """
    import diffusers

    kind: Any = pipeline if isinstance(pipeline, type) else getattr(diffusers, pipeline, None)
    said = pipeline.__name__ if isinstance(pipeline, type) else pipeline
    if not isinstance(kind, type):
        raise BadInput(f"{name} is a {said}, which the installed diffusers does not know; upgrade it.")
    parts = inspect.signature(kind.__init__).parameters
    denoisers = [part for part in ("transformer", "unet") if part in parts]
    if not denoisers or not hasattr(kind, "encode_prompt") or "text_encoder" not in parts:
        raise BadInput(f"{name} is a {said}, which takes no prompt by a text encoder, so there is nothing to erase.")
    return type(said, (Generic,), {"pipeline_class": said, "denoiser_part": denoisers[0]})


def _check_reads_text(denoiser: Any, name: str) -> None:
    argument = Generic.streams[TEXT]
    if argument not in inspect.signature(denoiser.forward).parameters:
        raise BadInput(f"The denoiser of {name} ({denoiser.__name__}) takes no {argument}; efface cannot edit it.")
