"""Writes tiny models of four families, of diffusers' real classes with random weights, for the golden values.

It is a copy of what the tests' conftest files make, so that the models stay what they are when those files move.
"""

import json
from pathlib import Path
from typing import Any

import diffusers as _diffusers
import torch
import transformers as _transformers

WORDS = """
a an of in the cat dog horse house car boat bird parrot golf ball cake apple star blue red art image photo
portrait picture painting style by artist van gogh picasso line flat
"""
WIDTH = 32
MAX_TOKENS = 12
T5_WORDS = ["a", "an", "of", "in", "the", "cat", "dog", "horse", "house", "car", "boat", "bird", "golf", "ball", "red"]
T5_WORDS += ["blue", "art", "photo", "image", "painting"]
# Their annotations are narrower than what they take.
diffusers: Any = _diffusers
transformers: Any = _transformers


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer that knows every byte, and the words above as one token each."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: Any = []
    for word in WORDS.split():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            pieces[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
    vocabulary += ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = CLIPTokenizer(vocab=ids, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)


def write_tiny_sd(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder with random weights: text 32 wide, 12 tokens, pictures 16 x 16."""
    import diffusers
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    parts_of: Any = diffusers  # its annotations allow one block only
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = parts_of.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = parts_of.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
    text_encoder.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    parts_of.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def clip_parts(
    tiny_sd: Path, width: int, projection: int | None = None, activation: str = "quick_gelu"
) -> tuple[Any, Any]:
    """A CLIP text encoder, with a projection if its width is given, and its tokenizer."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        hidden_act=activation,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config), tokenizer


def t5_parts(width: int) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer: no start token, an end token, zeros as padding."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in T5_WORDS)]
    pieces += [(letter, -6.0) for letter in letters]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5EncoderModel(config), tokenizer


def tiny_vae(channels: int = 4, quant: bool = False) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, norm_num_groups=2, sample_size=16, shift_factor=0.1,
        use_quant_conv=quant, use_post_quant_conv=quant,
    )  # fmt: skip


def tiny_sdxl(tiny_sd: Path) -> Any:
    (one, tokenizer), (two, tokenizer_2) = clip_parts(tiny_sd, 16), clip_parts(tiny_sd, 24, projection=12)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=40, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), norm_num_groups=8, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=12 + 6 * 8,
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return diffusers.StableDiffusionXLPipeline(
        vae=tiny_vae(), text_encoder=one, text_encoder_2=two, tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip


def tiny_sd3(tiny_sd: Path) -> Any:
    one, two, three = clip_parts(tiny_sd, 8, projection=8), clip_parts(tiny_sd, 12, projection=12), t5_parts(32)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=20,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=tiny_vae(),
        text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1],
        text_encoder_3=three[0], tokenizer_3=three[1],
    )  # fmt: skip


def tiny_flux(tiny_sd: Path) -> Any:
    (clip, tokenizer), (t5, tokenizer_2) = clip_parts(tiny_sd, 16), t5_parts(32)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=tiny_vae(), text_encoder=clip, tokenizer=tokenizer,
        text_encoder_2=t5, tokenizer_2=tokenizer_2, transformer=transformer,
    )  # fmt: skip


_MAKERS = {"sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}


def write_tiny(family: str, folder: Path) -> Path:
    """The folder of a tiny model: sd, or sdxl, sd3 or flux, which take their CLIP tokenizer from sd beside it."""
    if family == "sd":
        return write_tiny_sd(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = _MAKERS[family](folder.parent / "sd")
    pipeline.save_pretrained(folder)
    return folder
