"""Copy detection: whether an image is a copy of a reference picture.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022, arXiv 2202.10261;
https://github.com/facebookresearch/sscd-copy-detection (file `sscd_disc_mixup.torchscript.pt`). The score is

    score(r | image) = max_i cos(f(image), f(r_i))

over the pictures r_i of the reference, 0 where it is negative; 1/2 or more counts as a copy, as in Somepalli et al.,
arXiv 2212.03860, and Concept Ablation. Pictures are resized to 288 pixels at the shorter side and normalised as
ImageNet's. A question names a picture file or a folder of pictures; of a judge that was given references, one of these.

The weights are published as TorchScript, which is a program: `--trust-torchscript` lets it run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadFile, BadInput
from efface.judges.base import JudgeEntry, Opening, Pixels, Scores
from efface.judges.references import Compared
from efface.judges.weights import file_version, user_file

SIDE, COPY = 288, 0.5
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH = 32


class CopyJudge(Compared[Tensor]):
    """Compares images with references.

    Args:
        network: Normalised images (n, 3, H, W) to descriptors (n, d).
        version: Of its weights.
        references: Pictures (n, H, W, 3) by the concept that they stand for; by default questions are paths.
        device: Where the network is.
    """

    name = "sscd"

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        version: str,
        references: Mapping[str, Iterable[Pixels]] | None = None,
        device: str = "cpu",
    ) -> None:
        self.version = f"{version}, {SIDE} pixels, PIL"
        self._network, self._device = network, device
        super().__init__(references)

    def _of(self, pictures: Iterable[Pixels]) -> Tensor:
        """Their descriptors, (m, d)."""
        return torch.cat([self.descriptors(picture[None]) for picture in pictures])

    def threshold(self, concept: str) -> float:
        return COPY

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        references = [self._reference(concept) for concept in concepts]
        f_nd = self.descriptors(images)
        cosines = [(f_nd @ r_md.T).amax(1) for r_md in references]
        return torch.stack(cosines, 1).clamp_min(0).numpy()

    @torch.no_grad()
    def descriptors(self, images: Pixels) -> Tensor:
        """(n, d), float64, of unit length."""
        parts = [
            self._network(_prepared(images[start : start + _BATCH]).to(self._device)).cpu().double()
            for start in range(0, len(images), _BATCH)
        ]
        return F.normalize(torch.cat(parts), dim=1)


def _prepared(images: Pixels) -> Tensor:
    """(n, 3, h, w), normalised, 288 pixels at the shorter side; all of one size."""
    height, width = images.shape[1:3]
    size = (SIDE * width // min(height, width), SIDE * height // min(height, width))
    x = np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR), np.float32) for i in images])
    return torch.from_numpy((x / 255 - _MEAN) / _STD).float().permute(0, 3, 1, 2).contiguous()


def open_sscd(asked: Opening) -> CopyJudge:
    """A judge from a TorchScript file.

    Raises:
        BadInput: There is no such file, it may not be run, or it is something else.
    """
    path = user_file(asked.weights, "SSCD's weights")
    if not asked.trust_torchscript:
        raise BadInput(f"{path} is TorchScript, which is a program; pass --trust-torchscript if you trust its source.")
    try:
        network = torch.jit.load(str(path), map_location=asked.device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise BadFile(f"Cannot read SSCD's weights from {path}: {str(error).strip().splitlines()[0]}") from error
    return CopyJudge(network, file_version(path), device=asked.device)


ENTRY = JudgeEntry(
    name="sscd",
    summary="whether an image is a copy of a picture (sscd:FILE.torchscript.pt --trust-torchscript -q PICTURE)",
    source="https://arxiv.org/abs/2202.10261",
    open=open_sscd,
    takes_option=False,
)
