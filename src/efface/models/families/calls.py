"""How the transformers of further pipelines are called in denoising, for latents that are images (b, C, h, w).

    pipeline       latents     time        further arguments                            prediction
    Chroma         patches     t / 1000    positions, the mask with the image's tokens  velocity
    FLUX.2 klein   patches     t / 1000    positions of four numbers                    velocity
    Qwen-Image     patches     t / 1000    the mask, the image's size in patches        velocity
    Sana           images      t x scale   the mask                                     velocity
    PixArt Sigma   images      t           the mask                                     noise, the first half
    Lumina 2       images      1 - t/1000  the mask                                     velocity, negated
    Wan            one frame   t           none                                         velocity
    Z-Image        a list      1 - t/1000  none; the text is a list of tokens           velocity, negated

Text and mask of a prompt are one tensor, in which samplers and trainers pass them around: the mask is its last column.

Shapes: b samples, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from efface.models.families.patches import latents_of_patches, patch_rows_and_columns, patches_of
from efface.models.flow import TIMESTEPS, NoiseLevels
from efface.models.parameters import Parameters, call_with


def with_mask(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens and mask of prompts as one tensor, (n, T, d + 1).

    Args:
        tokens: The text, (n, T, d).
        mask: The tokens that the transformer reads, (n, T); None if it reads all.
    """
    column = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens)
    return torch.cat([tokens, column[..., None]], dim=-1)


def without_mask(text: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `with_mask`: tokens (n, T, d) and the mask (n, T), boolean."""
    return text[..., :-1], text[..., -1] > 0.5


@dataclass(frozen=True, eq=False)
class CallInputs:
    """What a call of a transformer depends on.

    Attributes:
        x: The noisy latents, (b, C, h, w).
        t: The timesteps of the scheduler, (b,).
        mask: The tokens of the text that are read, (b, T), boolean.
        config: The configuration of the transformer.
    """

    x: Tensor
    t: Tensor
    mask: Tensor
    config: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class CallArguments:
    """What a transformer receives besides its text.

    Attributes:
        x: The latents in its layout.
        time: The time in its unit, (b,).
        others: Its further arguments by name.
    """

    x: Tensor
    time: Tensor
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TransformerCall:
    """How the transformer of a pipeline is called.

    Attributes:
        arguments: The arguments of a call.
        prediction: From the output of a call to the prediction, (b, C, h, w).
        is_patched: Whether the transformer reads patches of 2x2, each with 4C channels.
        has_lists: Whether latents, texts and predictions are lists with one entry for each sample.
        noise_levels: How the noise levels of sampling are spaced.
        unsupported: Whether models with this configuration of the transformer are called in another way.
    """

    arguments: Callable[[CallInputs], CallArguments]
    prediction: Callable[[Tensor, CallInputs], Tensor]
    is_patched: bool = False
    has_lists: bool = False
    noise_levels: NoiseLevels = "even"
    unsupported: Callable[[Mapping[str, Any]], bool] = lambda config: False


def _size(inputs: CallInputs) -> tuple[int, int]:
    return inputs.x.shape[-2], inputs.x.shape[-1]


def _latents(output: Tensor, inputs: CallInputs) -> Tensor:
    return latents_of_patches(output, *_size(inputs))


def _chroma(inputs: CallInputs) -> CallArguments:
    tokens, positions = inputs.mask.shape[1], patch_rows_and_columns(*_size(inputs))
    others = {
        "txt_ids": torch.zeros(tokens, 3),
        "img_ids": pad(positions, (1, 0)),
        # The pipeline's mask is of ones and zeros that attention adds to its scores, not a boolean one.
        "attention_mask": pad(inputs.mask.float(), (0, len(positions)), value=1.0),
    }
    return CallArguments(patches_of(inputs.x), inputs.t / TIMESTEPS, others)


def _flux2(inputs: CallInputs) -> CallArguments:
    b, tokens = inputs.mask.shape
    text = pad(torch.arange(tokens)[:, None], (3, 0))
    image = pad(patch_rows_and_columns(*_size(inputs)).long(), (1, 1))
    others = {"txt_ids": text.expand(b, -1, -1), "img_ids": image.expand(b, -1, -1), "guidance": None}
    return CallArguments(patches_of(inputs.x), inputs.t / TIMESTEPS, others)


def _qwen(inputs: CallInputs) -> CallArguments:
    h, w = _size(inputs)
    mask = None if bool(inputs.mask.all()) else inputs.mask
    others = {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, h // 2, w // 2)]] * len(inputs.x)}
    return CallArguments(patches_of(inputs.x), inputs.t / TIMESTEPS, others)


def _sana(inputs: CallInputs) -> CallArguments:
    scale = inputs.config.get("timestep_scale", 1.0)
    return CallArguments(inputs.x, inputs.t * scale, {"encoder_attention_mask": inputs.mask})


def _pixart(inputs: CallInputs) -> CallArguments:
    sizes = {"resolution": None, "aspect_ratio": None}
    return CallArguments(inputs.x, inputs.t, {"encoder_attention_mask": inputs.mask, "added_cond_kwargs": sizes})


def _mean(output: Tensor, inputs: CallInputs) -> Tensor:
    """The prediction without the variance, which a model may predict too."""
    return output[:, : inputs.x.shape[1]]


def _lumina2(inputs: CallInputs) -> CallArguments:
    return CallArguments(inputs.x, 1 - inputs.t / TIMESTEPS, {"encoder_attention_mask": inputs.mask})


def _negated(output: Tensor, inputs: CallInputs) -> Tensor:
    return -output


def _wan(inputs: CallInputs) -> CallArguments:
    return CallArguments(inputs.x[:, :, None], inputs.t)


def _frame(output: Tensor, inputs: CallInputs) -> Tensor:
    return output[:, :, 0]


def _z_image(inputs: CallInputs) -> CallArguments:
    return CallArguments(inputs.x[:, :, None], 1 - inputs.t / TIMESTEPS)


def _negated_frame(output: Tensor, inputs: CallInputs) -> Tensor:
    return -output[:, :, 0]


def call_with_lists(
    transformer: Any, given: CallArguments, text: Tensor, mask: Tensor, parameters: Parameters | None
) -> Tensor:
    """Call a transformer of Z-Image once.

    Args:
        transformer: The transformer.
        given: Its arguments besides the text, with latents (b, C, 1, h, w) in its type and on its device.
        text: The text, (b, T, d), in its type and on its device.
        mask: The tokens that are read, (b, T).
        parameters: What differs from the transformer's own parameters.

    Returns:
        The output, (b, C, 1, h, w), float32.
    """
    texts = [tokens[read] for tokens, read in zip(text, mask.to(text.device), strict=True)]
    named = {"t": given.time.to(text.device), "cap_feats": texts, "return_dict": False}
    (output,) = call_with(transformer, parameters or {}, (list(given.x),), named)
    return torch.stack(output).float()


def _is_distilled(config: Mapping[str, Any]) -> bool:
    return bool(config.get("guidance_embeds"))


CALLS: Mapping[str, TransformerCall] = {
    "ChromaPipeline": TransformerCall(_chroma, _latents, is_patched=True),
    "Flux2KleinPipeline": TransformerCall(
        _flux2, _latents, is_patched=True, noise_levels="flux2", unsupported=_is_distilled
    ),
    "QwenImagePipeline": TransformerCall(_qwen, _latents, is_patched=True, unsupported=_is_distilled),
    "SanaPipeline": TransformerCall(_sana, _mean, noise_levels="scheduler", unsupported=_is_distilled),
    "PixArtSigmaPipeline": TransformerCall(_pixart, _mean),
    "Lumina2Pipeline": TransformerCall(_lumina2, _negated),
    "WanPipeline": TransformerCall(_wan, _frame, noise_levels="scheduler"),
    "ZImagePipeline": TransformerCall(_z_image, _negated_frame, has_lists=True),
}
