"""Tiny pipelines of transformers, of diffusers' real classes, made of shared parts."""

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from torch import nn

from tiny_families import QWEN3_CHAT, WORDS, diffusers, t5_parts, tiny_lumina, tiny_vae, transformers, word_tokenizer

Parts = dict[str, Any]
FLOW = diffusers.FlowMatchEulerDiscreteScheduler


def pipeline_of(name: str, parts: Mapping[str, Any]) -> Any:
    """A pipeline of a class of diffusers; what its parameters do not find among the parts is left out."""
    kind = getattr(diffusers, name)
    arguments: dict[str, Any] = {}
    for argument, parameter in list(signature(kind.__init__).parameters.items())[1:]:
        if argument in parts:
            arguments[argument] = parts[argument]
        elif parameter.default is Parameter.empty:
            arguments[argument] = None
    pipeline = kind(**arguments)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def loud(encoder: Any) -> Any:
    """A text encoder whose early layers are as loud as those of a trained one; some pipelines read no norm of them."""
    table = encoder.get_input_embeddings()
    table.weight.data *= 50
    return encoder


def t5_pipeline(**more: Any) -> Parts:
    """Pipelines with a T5 as their only text encoder share everything but the denoiser."""
    t5, tokenizer = t5_parts(32)
    return {"text_encoder": t5, "tokenizer": tokenizer, "vae": tiny_vae(), "scheduler": FLOW(), **more}


def of_chroma(tiny_sd: Path) -> Parts:
    return t5_pipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=8, approximator_layers=1,
            approximator_num_channels=8,
        )
    )  # fmt: skip


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def of_hunyuan(tiny_sd: Path) -> Parts:
    t5, tokenizer_2 = t5_parts(32)
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=80,
    )  # fmt: skip
    transformer = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=2, cross_attention_dim=24, cross_attention_dim_t5=32, pooled_projection_dim=16,
    )  # fmt: skip
    return {
        "text_encoder": transformers.BertModel(config), "tokenizer": tokenizer, "text_encoder_2": t5,
        "tokenizer_2": tokenizer_2, "vae": tiny_vae(), "scheduler": diffusers.DDPMScheduler(),
        "transformer": transformer, "requires_safety_checker": False,
    }  # fmt: skip


def bert_tokenizer() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return transformers.BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=77)


def of_sana(tiny_sd: Path, guidance_embeds: bool = True) -> Parts:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, guidance_embeds=guidance_embeds,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
    )  # fmt: skip
    return dict(tiny_lumina(tiny_sd).components) | {
        "transformer": transformer, "vae": vae,
        "controlnet": diffusers.SanaControlNetModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
            sample_size=8,
        ),
    }  # fmt: skip


def letter_tokenizer(chat_template: str | None = None) -> Any:
    """A tokenizer of letters, for pipelines that cut a template of a fixed number of tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    ids = {piece: index for index, piece in enumerate([*special, *map(chr, range(32, 127)), "\n"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<pad>", additional_special_tokens=special[1:],
        chat_template=chat_template, padding_side="right", model_max_length=2048,
    )  # fmt: skip


def of_qwen(tiny_sd: Path) -> Parts:
    tokenizer = letter_tokenizer()
    encoder = qwen_vl(len(tokenizer))
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return {
        "text_encoder": encoder, "tokenizer": tokenizer, "transformer": transformer, "vae": vae, "scheduler": FLOW(),
    }  # fmt: skip


def qwen_vl(words: int) -> Any:
    text = {
        "vocab_size": words, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def of_z_image(tiny_sd: Path) -> Parts:
    tokenizer = word_tokenizer(QWEN3_CHAT)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[600, 64, 64],
    )  # fmt: skip
    # As uninitialised memory would be: these tokens pad texts and images to a multiple of 32.
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        nn.init.normal_(token, std=0.02)
    return {
        "text_encoder": transformers.Qwen3Model(config), "tokenizer": tokenizer, "vae": tiny_vae(),
        "scheduler": FLOW(), "transformer": transformer,
    }  # fmt: skip


def of_wan(tiny_sd: Path) -> Parts:
    parts = t5_pipeline(
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32, freq_dim=16,
            ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        ),
        vae=wan_vae(),
    )  # fmt: skip
    config = transformers.UMT5Config(
        vocab_size=len(parts["tokenizer"]), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    return parts | {"text_encoder": transformers.UMT5EncoderModel(config)}
