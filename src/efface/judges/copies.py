"""Whether pictures are copies of another one, for methods that must know (`efface.methods.base.CopyDetector`).

    copy: cos(f(picture), f(original)) >= threshold

f is that of a judge which compares pictures (`sscd`); or, for the embedded model, the image features of its own CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from efface.errors import BadFile, BadInput
from efface.generate.folder import read_picture
from efface.judges.base import Compares, Judge

if TYPE_CHECKING:
    from efface.models.clip import Clip

Picture = NDArray[np.uint8]

#: From which cosine on the embedded CLIP takes two pictures for one.
CLOSE = 0.9


class ByDescriptors:
    """Compares by unit vectors.

    Args:
        judge: makes them.
        threshold: the cosine from which on a picture is a copy.
    """

    def __init__(self, judge: Compares, threshold: float) -> None:
        self._judge, self._threshold = judge, threshold

    def __call__(self, pictures: Sequence[Picture], original: Path) -> list[bool]:
        """Whether each picture is a copy of the one in a file.

        Raises:
            BadFile: that cannot be read.
        """
        try:
            reference = read_picture(original)
        except OSError as error:
            raise BadFile(f"Cannot read the picture {original}: {error}.") from error
        f_nd, r_1d = self._judge.descriptors(np.stack(pictures)), self._judge.descriptors(reference[None])
        return ((f_nd @ r_1d.T).squeeze(1) >= self._threshold).tolist()


class ClipDescriptors:
    """A CLIP's image features as unit vectors."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def descriptors(self, images: Picture) -> Tensor:
        return F.normalize(self._clip.image_features(images), dim=1)


def copies_by(judge: Judge) -> ByDescriptors:
    """The detector that a judge is.

    Raises:
        BadInput: it does not compare pictures.
    """
    if not isinstance(judge, Compares):
        raise BadInput(f"The judge '{judge.name}' does not compare pictures; take sscd:FILE with --trust-torchscript.")
    return ByDescriptors(judge, judge.threshold(""))


def copies_by_embedded_clip(device: torch.device) -> ByDescriptors:
    """The embedded model's detector."""
    from efface.models.clip import open_clip

    return ByDescriptors(ClipDescriptors(open_clip("", device)), CLOSE)
