"""What tests of several trained methods share."""

from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def sd14() -> Any:
    """The denoiser of SD 1.4, without memory for its weights."""
    import diffusers

    kinds: Any = diffusers
    with torch.device("meta"):
        return kinds.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
