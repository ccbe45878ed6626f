"""Any other diffusers pipeline whose denoiser takes `encoder_hidden_states`: PixArt, Sana, Qwen-Image, FLUX.2, Wan...

A prompt is embedded by the pipeline's own `encode_prompt`, with the default options of its call. The last subject token
is found from the ids that the text encoder receives (see `text.tokens`): the words of a prompt are followed by the same
tokens as the empty prompt (an end token, the end of a chat template, or nothing).

Attaching needs no more. To bake and export, the maps that read the text are found by a trace (see `text_readers`).
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
from efface.models.text.tokens import padded, recorded_ids, subjects
from efface.models.text_readers import find_text_readers


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
            self._parts["readers"] = find_text_readers(self.pipeline(), self.denoiser, self.streams[TEXT])
        return self._parts["readers"]

    def text_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.text_parameters():
            yield name, self.denoiser.get_parameter(name).detach()

    @property
    def text_files(self) -> tuple[Path, ...] | None:
        return super().text_files if "readers" in self._parts else None

    def _options(self) -> dict[str, Any]:
        """Arguments of `encode_prompt`, with the defaults of the pipeline's call."""
        pipeline = self.pipeline()
        call = inspect.signature(pipeline.__call__).parameters
        options: dict[str, Any] = {}
        for name, parameter in inspect.signature(pipeline.encode_prompt).parameters.items():
            default = call[name].default if name in call else parameter.default
            if default is not inspect.Parameter.empty:
                options[name] = default
        fixed = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        return options | {name: value for name, value in fixed.items() if name in options}

    def _encode(self, prompts: list[str], clip_skip: int | None, truncate: bool) -> Embedded:
        options = self._options()
        if "clip_skip" in options:
            options["clip_skip"] = clip_skip
        else:
            refuse_clip_skip(clip_skip, self.pipeline_class)
        if not truncate:
            self._check_lengths(prompts)
        with recorded_ids(self.text_encoder) as calls:
            # A word and the empty prompt are added for comparison.
            output: Any = self.pipeline().encode_prompt(**{**options, "prompt": [*prompts, "a", ""]})
        outputs = output if isinstance(output, tuple) else (output,)
        tokens, output_mask = padded(outputs[0])
        masks = [out for out in outputs[1:] if isinstance(out, Tensor) and out.shape == tokens.shape[:2]]
        if output_mask is None and masks:
            output_mask = masks[0].bool().cpu()
        if not calls or len(calls[0][0]) != len(tokens):
            raise BadInput(f"Cannot find out which token of a prompt is its subject for a {self.pipeline_class}.")
        ids, mask = calls[0]
        mask = ids != self.tokenizer.pad_token_id if mask is None else mask.bool()
        last, start = subjects(ids, mask, output_mask, tokens.shape[1])
        read = None if output_mask is None else output_mask[:-2]
        return Embedded(tokens.float().cpu()[:-2], last[:-2], tuple(prompts), start, attention_mask=read)

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
        BadInput: The installed diffusers has no such pipeline, or it takes no prompt.
    """
    import diffusers

    kind: Any = pipeline if isinstance(pipeline, type) else getattr(diffusers, pipeline, None)
    class_name = pipeline.__name__ if isinstance(pipeline, type) else pipeline
    if not isinstance(kind, type):
        raise BadInput(f"{name} is a {class_name}, which the installed diffusers does not know; upgrade it.")
    parts = inspect.signature(kind.__init__).parameters
    denoisers = [part for part in ("transformer", "unet") if part in parts]
    if not denoisers or not hasattr(kind, "encode_prompt") or "text_encoder" not in parts:
        raise BadInput(
            f"{name} is a {class_name}, which takes no prompt by a text encoder, so there is nothing to erase."
        )
    return type(class_name, (Generic,), {"pipeline_class": class_name, "denoiser_part": denoisers[0]})


def _check_reads_text(denoiser: Any, name: str) -> None:
    argument = Generic.streams[TEXT]
    if argument not in inspect.signature(denoiser.forward).parameters:
        raise BadInput(f"The denoiser of {name} ({denoiser.__name__}) takes no {argument}; efface cannot edit it.")
