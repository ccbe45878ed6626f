"""Tiny pipelines of other families, of diffusers' real classes, with random weights and tokenizers made here."""

from pathlib import Path
from typing import Any

import diffusers as _diffusers
import transformers as _transformers

WORDS = ["a", "an", "of", "in", "the", "cat", "dog", "horse", "house", "car", "boat", "bird", "golf", "ball", "red"]
WORDS += ["blue", "art", "photo", "image", "painting"]
QWEN3_CHAT = "<|im_start|> user {{ messages[0]['content'] }} <|im_end|> <|im_start|> assistant <think> </think>"
# Their annotations are narrower than what they take.
diffusers: Any = _diffusers
transformers: Any = _transformers


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
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS)]
    pieces += [(letter, -6.0) for letter in letters]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5EncoderModel(config), tokenizer


def word_tokenizer(chat_template: str | None = None, more: int = 0) -> Any:
    """A tokenizer of whole words, as decoders have one: a start token without a template, no end token.

    Args:
        chat_template: The template of chats.
        more: The number of further words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<unk>", "<bos>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    ids = {piece: index for index, piece in enumerate([*special, "user", "assistant", *WORDS, *map(str, range(more))])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if chat_template is None:
        tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>",
        additional_special_tokens=special[3:], chat_template=chat_template, padding_side="right",
    )  # fmt: skip


def tiny_vae(channels: int = 4, quant: bool = False) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, norm_num_groups=2, sample_size=16, shift_factor=0.1,
        use_quant_conv=quant, use_post_quant_conv=quant,
    )  # fmt: skip


def tiny_sd2(tiny_sd: Path) -> Any:
    text_encoder, tokenizer = clip_parts(tiny_sd, 24, activation="gelu")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=24,
        attention_head_dim=(2, 4), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8, use_linear_projection=True,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, prediction_type="v_prediction",
    )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=tiny_vae(quant=True), text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
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


def tiny_flux(tiny_sd: Path, guidance_embeds: bool = False) -> Any:
    (clip, tokenizer), (t5, tokenizer_2) = clip_parts(tiny_sd, 16), t5_parts(32)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=tiny_vae(), text_encoder=clip, tokenizer=tokenizer,
        text_encoder_2=t5, tokenizer_2=tokenizer_2, transformer=transformer,
    )  # fmt: skip


def tiny_pixart(tiny_sd: Path) -> Any:
    t5, tokenizer = t5_parts(32)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=32,
        in_channels=4, cross_attention_dim=16, out_channels=8, use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(tokenizer, t5, tiny_vae(), transformer, diffusers.DDIMScheduler())


def tiny_flux2(tiny_sd: Path) -> Any:
    tokenizer = word_tokenizer(QWEN3_CHAT)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=27, head_dim=8,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    encoder = transformers.Qwen3ForCausalLM(config)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=2, sample_size=16,
    )  # fmt: skip
    return diffusers.Flux2KleinPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer, transformer
    )


def tiny_lumina(tiny_sd: Path) -> Any:
    tokenizer = word_tokenizer()
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    encoder = transformers.Gemma2Model(config)
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(), tiny_vae(), encoder, tokenizer
    )
