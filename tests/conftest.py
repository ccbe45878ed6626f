"""Shared fixtures: a tiny Stable Diffusion of the real classes with random weights, created on first use."""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from torch import Tensor

from efface.models import Model, open_model
from support import Processes

pytest_plugins = ["command_line", "family_fixtures"]

WORDS = """
a an of in the cat dog horse house car boat bird parrot golf ball cake apple star blue red art image photo
portrait picture painting style by artist van gogh picasso line flat
"""
WIDTH = 32
MAX_TOKENS = 12


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


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """The garbage collector ignores the objects that exist when a module of tests starts.

    Accelerate collects garbage after each training. With the imported libraries, each collection takes 0.4 seconds.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFACE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Stable Diffusion; do not write into it."""
    return write_tiny_sd(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def other_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny Stable Diffusion, with other weights."""
    return write_tiny_sd(tmp_path_factory.mktemp("tiny") / "other", seed=1)


@pytest.fixture(scope="session")
def tiny_clip(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random CLIP; do not write into it."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 12,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    folder = tmp_path_factory.mktemp("tiny") / "clip"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_sd: Path) -> Model:
    """The tiny model, opened anew for each test."""
    return open_model(tiny_sd)


@pytest.fixture
def loud_model(tiny_model: Model) -> Model:
    """The tiny model with larger cross-attention weights: texts change its predictions by more than rounding."""
    for name, parameter in tiny_model.denoiser.named_parameters():
        if "attn2.to" in name:
            parameter.data *= 8
    return tiny_model


GuidedCall = Callable[..., Tensor]


@pytest.fixture
def guided() -> GuidedCall:
    """The denoiser's prediction for a guided batch: the unconditional half, then the prompts, of the same latents."""

    def predict(model: Model, prompts: Sequence[str], negative: str = "", step: float = 500, seed: int = 0) -> Tensor:
        half = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        text = torch.cat([model.embed([negative] * len(prompts)).tokens, model.embed(prompts).tokens])
        text = text.to(model.dtype)
        with torch.no_grad():
            latents = torch.cat([half, half]).to(model.dtype)
            return model.denoiser(latents, torch.tensor(step), encoder_hidden_states=text).sample

    return predict


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no file may grow beyond 20 kB: pytest's own log neither, so it is no longer than need be."""

    @contextmanager
    def small() -> Generator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return small


@pytest.fixture
def finished_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
