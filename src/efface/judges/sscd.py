"""Copy detection: whether an image is a copy of a reference picture.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022, arXiv 2202.10261;
https://github.com/facebookresearch/sscd-copy-detection (file `sscd_disc_mixup.torchscript.pt`). The score is

    score(r | image) = max_i cos(f(image), f(r_i))

over the pictures r_i of the reference, 0 where it is negative; 1/2 or more counts as a copy, as in Somepalli et al.,
arXiv 2212.03860, and Concept Ablation. Pictures are resized to 288 pixels at the shorter side and normalised as
ImageNet's. A question is the path of a picture or of a folder of pictures; for a judge made with references, the name
of one of them.

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
from efface.judges.base import JudgeEntry, JudgeOptions, Pixels, Scores
from efface.judges.shared.references import ReferenceJudgeBase
from efface.judges.shared.weights import existing_file, file_version

SIDE, COPY = 288, 0.5
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH = 32


class CopyJudge(ReferenceJudgeBase[Tensor]):
    """Compares images with references.

    Args:
        network: Normalised images of shape (n, 3, H, W) to descriptors of shape (n, d).
        version: The version of the weights.
        references: Pictures of shape (H, W, 3) by question. By default a question is a path.
        device: The network's device.
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

    def _prepare(self, pictures: Iterable[Pixels]) -> Tensor:
        """Descriptors of shape (m, d)."""
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
        """Descriptors of shape (n, d), float64, of unit length, for images of shape (n, H, W, 3)."""
        parts = [
            self._network(_prepared(images[start : start + _BATCH]).to(self._device)).cpu().double()
            for start in range(0, len(images), _BATCH)
        ]
        return F.normalize(torch.cat(parts), dim=1)


def _prepared(images: Pixels) -> Tensor:
    """Normalised images of shape (n, 3, h, w), with 288 pixels at the shorter side."""
    height, width = images.shape[1:3]
    size = (SIDE * width // min(height, width), SIDE * height // min(height, width))
    x = np.stack([np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR), np.float32) for i in images])
    return torch.from_numpy((x / 255 - _MEAN) / _STD).float().permute(0, 3, 1, 2).contiguous()


def open_sscd(options: JudgeOptions) -> CopyJudge:
    """Open a judge from a TorchScript file.

    Raises:
        BadInput: Running the file is not allowed (`trust_torchscript`).
        BadFile: There is no such file, or it is of another kind.
    """
    path = existing_file(options.weights, "SSCD's weights")
    if not options.trust_torchscript:
        raise BadInput(f"{path} is TorchScript, which is a program; pass --trust-torchscript if you trust its source.")
    try:
        network = torch.jit.load(str(path), map_location=options.device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise BadFile(f"Cannot read SSCD's weights from {path}: {str(error).strip().splitlines()[0]}") from error
    return CopyJudge(network, file_version(path), device=options.device)


ENTRY = JudgeEntry(
    name="sscd",
    summary="whether an image is a copy of a picture (sscd:FILE.torchscript.pt --trust-torchscript -q PICTURE)",
    source="https://arxiv.org/abs/2202.10261",
    open=open_sscd,
    takes_option=False,
)
