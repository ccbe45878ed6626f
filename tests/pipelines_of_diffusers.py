"""Tiny pipelines of the classes of images that diffusers exports, made of shared parts.

Each class is in `GROUPS`, which builds it and erases from it; is rejected from its `model_index.json` alone; or is in
`LEFT_OUT`, with the reason. `benchmarks/pipelines.py` runs all of them, and the tests most.
"""

import json
import re
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

import efface
from efface import BadInput, TextEdit
from efface.models.families.normed_text import NORMED_TEXTS, normed
from efface.models.text.pipeline_text import encode_by_pipeline, encoding_options, text_of
from tiny_families import (
    diffusers,
    tiny_flux,
    tiny_flux2,
    tiny_lumina,
    tiny_pixart,
    tiny_sd2,
    tiny_sd3,
    tiny_sdxl,
    tiny_vae,
    transformers,
    word_tokenizer,
)
from tiny_transformers import (
    FLOW,
    Parts,
    letter_tokenizer,
    loud,
    of_chroma,
    of_hunyuan,
    of_qwen,
    of_sana,
    of_z_image,
    t5_pipeline,
    wan_vae,
)


def of_sd(tiny_sd: Path) -> Parts:
    parts = dict(tiny_sd2(tiny_sd).components)
    return parts | {
        "requires_safety_checker": False,
        "controlnet": diffusers.ControlNetModel.from_unet(parts["unet"]),
        "adapter": diffusers.T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2),
    }


def of_motion(tiny_sd: Path) -> Parts:
    motion = diffusers.MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8
    )
    return of_sd(tiny_sd) | {"motion_adapter": motion}


def of_control_xs(tiny_sd: Path) -> Parts:
    parts = of_sd(tiny_sd)
    return parts | {"controlnet": diffusers.ControlNetXSAdapter.from_unet(parts["unet"], size_ratio=0.5)}


def of_sdxl(tiny_sd: Path) -> Parts:
    parts = dict(tiny_sdxl(tiny_sd).components)
    return parts | {
        "controlnet": diffusers.ControlNetModel.from_unet(parts["unet"]),
        "adapter": diffusers.T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2),
        "add_watermarker": False,
    }


def of_control_union(tiny_sd: Path) -> Parts:
    parts = of_sdxl(tiny_sd)
    return parts | {"controlnet": diffusers.ControlNetUnionModel.from_unet(parts["unet"])}


def of_sd3(tiny_sd: Path) -> Parts:
    parts = dict(tiny_sd3(tiny_sd).components)
    for name in ("text_encoder", "text_encoder_2"):
        loud(parts[name])
    return parts | {"controlnet": diffusers.SD3ControlNetModel.from_transformer(parts["transformer"], num_layers=1)}


def of_flux(tiny_sd: Path) -> Parts:
    parts = dict(tiny_flux(tiny_sd).components)
    return parts | {
        "controlnet": diffusers.FluxControlNetModel.from_transformer(parts["transformer"], 1, 1, 16, 2),
        "resolution": 64,
    }


def of_pixart(tiny_sd: Path) -> Parts:
    return dict(tiny_pixart(tiny_sd).components)


def of_bria(tiny_sd: Path) -> Parts:
    return t5_pipeline(
        transformer=diffusers.BriaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=[0, 8, 8],
        )
    )  # fmt: skip


def of_auraflow(tiny_sd: Path) -> Parts:
    parts = t5_pipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16,
            out_channels=4, pos_embed_max_size=16,
        )
    )  # fmt: skip
    config = transformers.UMT5Config(
        vocab_size=len(parts["tokenizer"]), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0
    )
    return parts | {"text_encoder": transformers.UMT5EncoderModel(config)}


def of_if(tiny_sd: Path) -> Parts:
    return t5_pipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8, layers_per_block=1, block_out_channels=(32, 64), in_channels=3, out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", norm_num_groups=8,
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=16,
            encoder_hid_dim=32, encoder_hid_dim_type="text_proj", attention_head_dim=8, addition_embed_type="text",
            addition_embed_type_num_heads=2, resnet_time_scale_shift="scale_shift", act_fn="gelu",
        ),
        scheduler=diffusers.DDPMScheduler(), image_noising_scheduler=diffusers.DDPMScheduler(),
        requires_safety_checker=False,
    )  # fmt: skip


def of_kandinsky3(tiny_sd: Path) -> Parts:
    unet = diffusers.Kandinsky3UNet(
        time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3, block_out_channels=(8, 8),
        cross_attention_dim=4, encoder_hid_dim=32,
    )  # fmt: skip
    return t5_pipeline(unet=unet, movq=tiny_vae(), scheduler=diffusers.DDPMScheduler())


def of_cogview3(tiny_sd: Path) -> Parts:
    return t5_pipeline(
        transformer=diffusers.CogView3PlusTransformer2DModel(
            in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
            text_embed_dim=32, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8, sample_size=8,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip


def of_cosmos(tiny_sd: Path) -> Parts:
    return t5_pipeline(
        transformer=diffusers.CosmosTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, mlp_ratio=2,
            text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2),
            concat_padding_mask=True, extra_pos_embed_type="learnable",
        ),
        vae=wan_vae(), safety_checker=_Passes(),
    )  # fmt: skip


class _Passes(diffusers.ModelMixin):
    """In place of the checker of a package that is not installed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True


def of_flux2(tiny_sd: Path) -> Parts:
    return dict(tiny_flux2(tiny_sd).components)


def of_lumina2(tiny_sd: Path) -> Parts:
    return dict(tiny_lumina(tiny_sd).components)


def of_lumina(tiny_sd: Path) -> Parts:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=8, cross_attention_dim=16,
    )  # fmt: skip
    tokenizer = word_tokenizer()
    config = transformers.GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    encoder = loud(transformers.GemmaModel(config))
    return of_lumina2(tiny_sd) | {"transformer": transformer, "text_encoder": encoder, "tokenizer": tokenizer}


def of_cogview4(tiny_sd: Path) -> Parts:
    tokenizer = word_tokenizer()
    config = transformers.GlmConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4, text_embed_dim=16,
        time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    return {
        "text_encoder": loud(transformers.GlmModel(config)), "tokenizer": tokenizer, "vae": tiny_vae(),
        "scheduler": FLOW(), "transformer": transformer,
    }  # fmt: skip


def of_ovis(tiny_sd: Path) -> Parts:
    tokenizer = letter_tokenizer("{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}")
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=1, num_key_value_heads=1, pad_token_id=0,
    )  # fmt: skip
    encoder = transformers.Qwen3Model(config)
    transformer = diffusers.OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return {
        "transformer": transformer, "text_encoder": encoder, "tokenizer": tokenizer, "vae": tiny_vae(),
        "scheduler": FLOW(),
    }  # fmt: skip


def of_prx(tiny_sd: Path) -> Parts:
    parts = of_lumina2(tiny_sd)
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4, patch_size=1, context_in_dim=16, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1,
        axes_dim=[4, 4],
    )  # fmt: skip
    return parts | {"transformer": transformer}


def of_longcat(tiny_sd: Path) -> Parts:
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return of_qwen(tiny_sd) | {"transformer": transformer, "vae": tiny_vae()}


def of_bria_fibo(tiny_sd: Path) -> Parts:
    tokenizer = word_tokenizer(more=128_100)  # the pipeline uses the token 128000
    config = transformers.SmolLM3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformer = diffusers.BriaFiboTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, text_encoder_dim=16, axes_dims_rope=[0, 8, 8],
    )  # fmt: skip
    return {
        "text_encoder": transformers.SmolLM3ForCausalLM(config), "tokenizer": tokenizer, "transformer": transformer,
        "vae": wan_vae(), "scheduler": FLOW(),
    }  # fmt: skip


def one_line(error: BadInput) -> str:
    """The message of an error, which is one line."""
    assert "\n" not in str(error)
    return str(error)


def of_z_images(tiny_sd: Path) -> Parts:
    controlnet = diffusers.ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=8, dim=32, n_refiner_layers=1,
        n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    return of_z_image(tiny_sd) | {"controlnet": controlnet}


def fall_of_distance(pipeline: Any, positions: tuple[int, int]) -> float | str:
    """How many times closer "cat" is to "dog" after it is erased, in the text that the pipeline itself computes.

    Args:
        pipeline: The pipeline.
        positions: Where its text has the word of the prompts "cat" and "a dog".

    Returns:
        The ratio of the distances before and after, or the message with which the pipeline is rejected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eraser = efface.erase(pipeline, "cat", to="a dog")
    except BadInput as error:
        return one_line(error)
    tokens, _ = text_of(encode_by_pipeline(pipeline, ["cat", "a dog"], encoding_options(pipeline)))
    transformer: Any = getattr(pipeline, "transformer", None)
    if (entry := NORMED_TEXTS.get(type(transformer).__name__)) is not None:
        tokens = normed(transformer.get_submodule(entry.norm), tokens)
    concept, guide = (tokens[row, place].double() for row, place in enumerate(positions))
    edited = concept
    for edit in eraser.edits:
        if isinstance(edit, TextEdit) and edit.stream == "text":
            edited = edited + edit.left @ (edit.right.T @ edited)
    return float((concept - guide).norm() / (edited - guide).norm())


# The builder of the parts; where the word of "cat" and of "a dog" is in the text; the classes.
GROUPS: dict[Callable[[Path], Parts], tuple[tuple[int, int], tuple[str, ...]]] = {
    of_sd: ((1, 2), (
        "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline", "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline", "StableDiffusionPAGPipeline",
        "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline", "StableDiffusionAdapterPipeline",
        "StableDiffusionAttendAndExcitePipeline", "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionDiffEditPipeline", "StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline",
        "StableDiffusionInstructPix2PixPipeline", "StableDiffusionLDM3DPipeline",
        "StableDiffusionModelEditingPipeline", "StableDiffusionPanoramaPipeline", "StableDiffusionParadigmsPipeline",
        "StableDiffusionPix2PixZeroPipeline", "StableDiffusionSAGPipeline", "StableDiffusionUpscalePipeline",
        "StableDiffusionLatentUpscalePipeline", "SemanticStableDiffusionPipeline", "CycleDiffusionPipeline",
        "LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline", "StableUnCLIPImg2ImgPipeline",
        "StableUnCLIPPipeline", "TextToVideoZeroPipeline", "MarigoldDepthPipeline",
    )),
    of_motion: ((1, 2), (
        "AnimateDiffPipeline", "AnimateDiffPAGPipeline", "AnimateDiffControlNetPipeline", "PIAPipeline",
    )),
    of_sdxl: ((1, 2), (
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline", "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline", "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLAdapterPipeline", "StableDiffusionXLInstructPix2PixPipeline",
        "TextToVideoZeroSDXLPipeline",
    )),
    of_control_union: ((1, 2), (
        "StableDiffusionXLControlNetUnionPipeline", "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
    )),
    of_sd3: ((1, 2), (
        "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ControlNetPipeline", "StableDiffusion3ControlNetInpaintingPipeline",
        "StableDiffusion3PAGPipeline", "StableDiffusion3PAGImg2ImgPipeline",
    )),
    of_flux: ((0, 1), (
        "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlPipeline",
        "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline", "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline", "FluxFillPipeline", "FluxKontextPipeline",
        "FluxKontextInpaintPipeline", "VisualClozePipeline", "VisualClozeGenerationPipeline",
    )),
    of_chroma: ((0, 1), ("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline")),
    of_pixart: ((0, 1), ("PixArtSigmaPipeline", "PixArtAlphaPipeline", "PixArtSigmaPAGPipeline")),
    of_bria: ((0, 1), ("BriaPipeline",)),
    of_auraflow: ((0, 1), ("AuraFlowPipeline",)),
    of_if: ((0, 1), (
        "IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline", "IFSuperResolutionPipeline",
        "IFImg2ImgSuperResolutionPipeline", "IFInpaintingSuperResolutionPipeline",
    )),
    of_kandinsky3: ((0, 1), ("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline")),
    of_cogview3: ((0, 1), ("CogView3PlusPipeline",)),
    of_cosmos: ((0, 1), ("Cosmos2TextToImagePipeline",)),
    of_hunyuan: ((1, 2), ("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTControlNetPipeline")),
    of_flux2: ((2, 3), ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline")),
    of_lumina2: ((26, 27), ("Lumina2Pipeline",)),
    of_lumina: ((1, 2), ("LuminaPipeline",)),
    of_sana: ((2, 3), (
        "SanaPipeline", "SanaPAGPipeline", "SanaControlNetPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline",
    )),
    of_cogview4: ((14, 15), ("CogView4Pipeline", "CogView4ControlPipeline")),
    of_ovis: ((113, 115), ("OvisImagePipeline",)),
    of_prx: ((0, 1), ("PRXPipeline", "PRXPixelPipeline")),
    of_qwen: ((117, 119), (
        "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImageControlNetPipeline",
        "QwenImageControlNetInpaintPipeline", "QwenImageLayeredPipeline", "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline", "QwenImageEditPlusPipeline",
    )),
    of_z_images: ((2, 3), (
        "ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImageControlNetPipeline",
        "ZImageControlNetInpaintPipeline", "ZImageOmniPipeline",
    )),
    of_longcat: ((2, 4), ("LongCatImagePipeline",)),
    of_bria_fibo: ((1, 2), ("BriaFiboPipeline", "BriaFiboEditPipeline")),
}  # fmt: skip

# Classes that are neither erased from nor rejected by their index here, by the reason.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "makes sound": (
        "AceStepPipeline", "AudioLDM2Pipeline", "AudioLDMPipeline", "LongCatAudioDiTPipeline", "MusicLDMPipeline",
        "StableAudio3AudioToAudioPipeline", "StableAudio3InpaintPipeline", "StableAudio3Pipeline",
        "StableAudioPipeline",
    ),
    "makes videos": (
        "AllegroPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffSparseControlNetPipeline",
        "AnimateDiffVideoToVideoControlNetPipeline", "AnimateDiffVideoToVideoPipeline", "AnyFlowFARPipeline",
        "AnyFlowPipeline", "ChronoEditPipeline", "CogVideoXFunControlPipeline", "CogVideoXImageToVideoPipeline",
        "CogVideoXPipeline", "CogVideoXVideoToVideoPipeline", "ConsisIDPipeline", "Cosmos2VideoToWorldPipeline",
        "Cosmos2_5_PredictBasePipeline", "Cosmos2_5_TransferPipeline", "CosmosTextToWorldPipeline",
        "CosmosVideoToWorldPipeline", "EasyAnimateControlPipeline", "EasyAnimateInpaintPipeline",
        "EasyAnimatePipeline", "HeliosPipeline", "HeliosPyramidPipeline", "HunyuanSkyreelsImageToVideoPipeline",
        "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline", "HunyuanVideoFramepackPipeline",
        "HunyuanVideoImageToVideoPipeline", "HunyuanVideoPipeline", "I2VGenXLPipeline", "Kandinsky5I2VPipeline",
        "Kandinsky5T2VPipeline", "Kandinsky6TI2VAPipeline", "LTX2ConditionPipeline", "LTX2DFRPipeline",
        "LTX2DFRTemporalRefinePipeline", "LTX2HDRPipeline", "LTX2ImageToVideoPipeline", "LTX2InContextPipeline",
        "LTX2Pipeline", "LTXConditionPipeline", "LTXImageToVideoPipeline", "LTXPipeline", "LattePipeline",
        "LucyEditPipeline", "MochiPipeline", "MotifVideoImage2VideoPipeline", "MotifVideoPipeline",
        "SanaImageToVideoPipeline", "SanaVideoPipeline", "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        "SkyReelsV2ImageToVideoPipeline", "SkyReelsV2Pipeline", "TextToVideoSDPipeline", "VideoToVideoSDPipeline",
        "WanAnimatePipeline", "WanImageToVideoPipeline", "WanPipeline", "WanVACEPipeline", "WanVideoToVideoPipeline",
    ),
    "deprecated; its text encoder is a class of diffusers' own that has no tiny tokenizer": (
        "AltDiffusionImg2ImgPipeline", "AltDiffusionPipeline", "BlipDiffusionControlNetPipeline",
        "BlipDiffusionPipeline", "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline", "KandinskyPipeline",
        "UniDiffuserPipeline", "VQDiffusionPipeline",
    ),
    "its text encoder reads images too, by a processor of a published model": (
        "BriaFibo2Pipeline", "DreamLiteMobilePipeline", "DreamLitePipeline", "Flux2Pipeline", "GlmImagePipeline",
        "Ideogram4Pipeline", "JoyImageEditPipeline", "Kandinsky5I2IPipeline", "Kandinsky5T2IPipeline",
        "Krea2Pipeline", "LongCatImageEditPipeline", "NucleusMoEImagePipeline", "QwenImage21Pipeline",
    ),
    "estimates depth or normals of an image, and takes no prompt": (
        "MarigoldIntrinsicsPipeline", "MarigoldNormalsPipeline",
    ),
    "its network joins a U-Net and an adapter whose sizes no tiny U-Net here has; deprecated": (
        "StableDiffusionControlNetXSPipeline", "StableDiffusionXLControlNetXSPipeline",
    ),
}  # fmt: skip


def exported() -> list[str]:
    """The pipelines that diffusers exports; a modular one has no denoiser before it is assembled."""
    names = [name for name in dir(diffusers) if name.endswith("Pipeline") and "Modular" not in name]
    return [name for name in names if name != "DiffusionPipeline"]


def rejected_by_index(name: str, folder: Path) -> str | None:
    """The message with which a pipeline is rejected from its index alone; None if it is not.

    Args:
        name: The class.
        folder: An empty folder.
    """
    index: dict[str, Any] = {"_class_name": name}
    for argument, parameter in list(signature(getattr(diffusers, name).__init__).parameters.items())[1:]:
        known = re.search(r"(diffusers|transformers)[\w.]*\.([A-Z]\w+)", str(parameter.annotation))
        if known:
            index[argument] = list(known.groups())
    (folder / "model_index.json").write_text(json.dumps(index))
    try:
        efface.open_model(folder)
    except BadInput as error:
        return one_line(error)
    return None
