"""What the VAE makes of concept ablation's pictures. A picture that comes again as it was is encoded once.

Shapes: b pictures, C latent channels, h and w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.methods.ablate_augment import View


class Encoder:
    """Latents' means and deviations, of views with a key kept for the next time.

    Those are encoded alone: beside others they would differ by rounding, and a training that is taken up again meets
    them beside others.

    Args:
        vae: encodes.
        device: its.
    """

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._kept: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def __call__(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (b, C, h, w) each."""
        keys = [view.key for view in views if view.key is not None]
        if len(keys) < len(views):
            return self._encoded([view.picture for view in views])
        for key, view in zip(keys, views, strict=True):
            if key not in self._kept:
                self._kept[key] = self._encoded([view.picture])
        means, deviations = zip(*(self._kept[key] for key in keys), strict=True)
        return torch.cat(means), torch.cat(deviations)

    def _encoded(self, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found = self._vae.encode(torch.stack(list(pictures)).to(self._device, self._vae.dtype)).latent_dist
        return found.mean.float(), found.std.float()
