"""Whether pictures are copies of another one, for methods that must know (`efface.methods.base.CopyDetector`).

A judge that compares pictures (`sscd`, `pixels`) says so itself. For the embedded model its own CLIP does, by image
features f:

    copy: cos(f(picture), f(original)) >= 0.9
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from efface.errors import BadFile, BadInput
from efface.generate.folder import read_picture
from efface.judges.base import Comparing, Judge

if TYPE_CHECKING:
    from efface.methods.base import CopyDetector

Picture = NDArray[np.uint8]

#: From which cosine on the embedded CLIP takes two pictures for one.
CLOSE = 0.9


def copies_by(judge: Judge) -> CopyDetector:
    """The detector that a judge is.

    Raises:
        BadInput: it does not compare pictures.
    """
    if not isinstance(judge, Comparing):
        raise BadInput(f"The judge '{judge.name}' does not compare pictures; take sscd:FILE with --trust-torchscript.")

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        knowing = judge.knowing({"": [_read(original)]})
        return (knowing.scores(np.stack(pictures), [""])[:, 0] >= knowing.threshold("")).tolist()

    return copies


def copies_by_embedded_clip(device: torch.device) -> CopyDetector:
    """The embedded model's detector."""
    from efface.models.clip import open_clip

    clip = open_clip("", device)

    def copies(pictures: Sequence[Picture], original: Path) -> list[bool]:
        sides = (_read(original)[None], np.stack(pictures))
        r_1d, f_nd = (F.normalize(clip.image_features(side), dim=1) for side in sides)
        return ((f_nd @ r_1d.T).squeeze(1) >= CLOSE).tolist()

    return copies


def _read(original: Path) -> Picture:
    """The picture that others may be copies of.

    Raises:
        BadFile: it cannot be read.
    """
    try:
        return read_picture(original)
    except OSError as error:
        raise BadFile(f"Cannot read the picture {original}: {error}.") from error
