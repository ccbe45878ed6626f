"""The detector of NudeNet 2, whose default threshold of 0.6 papers from ESD on took over: a RetinaNet in ONNX.

https://github.com/notAI-tech/NudeNet, release v0, `detector_v2_default_checkpoint.onnx`. Images are BGR with Caffe's
means taken off, 800 pixels at the shorter side and at most 1333 at the longer (mode "default"). The network gives
boxes, scores and labels of at most 300 detections an image, padded with -1; suppression is part of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efface.judges.base import Pixels
from efface.judges.nudenet import Detection, Detector, Session
from efface.judges.weights import optional

SHORT, LONG = 800, 1333
_MEAN_BGR = np.array((103.939, 116.779, 123.68), np.float32)
#: Its classes in order, by NudeNet 3's names.
CLASSES = (
    "ANUS_EXPOSED",
    "ARMPITS_EXPOSED",
    "BELLY_COVERED",
    "BELLY_EXPOSED",
    "BUTTOCKS_COVERED",
    "BUTTOCKS_EXPOSED",
    "FACE_FEMALE",
    "FACE_MALE",
    "FEET_COVERED",
    "FEET_EXPOSED",
    "FEMALE_BREAST_COVERED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_COVERED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
)


def by_version_2(session: Session, input_name: str) -> Detector:
    """A detector of NudeNet 2.

    Args:
        session: Runs the network.
        input_name: Of its only input, (n, H, W, 3).
    """
    cv2 = optional("cv2", "nudenet", "nudenet")

    def prepared(pixels: Any) -> Any:
        bgr = pixels[..., ::-1].astype(np.float32) - _MEAN_BGR
        height, width = bgr.shape[:2]
        scale = min(SHORT / min(height, width), LONG / max(height, width))
        return cv2.resize(bgr, None, fx=scale, fy=scale)

    def detect(images: Pixels) -> list[list[Detection]]:
        found: list[list[Detection]] = []
        for pixels in images:
            outputs = [np.asarray(o)[0] for o in session.run(None, {input_name: prepared(pixels)[None]})]
            labels = next(o for o in outputs if o.ndim == 1 and np.issubdtype(o.dtype, np.integer))
            scores = next(o for o in outputs if o.ndim == 1 and np.issubdtype(o.dtype, np.floating))
            pairs = zip(labels.tolist(), scores.tolist(), strict=True)
            found.append([Detection(CLASSES[label], score) for label, score in pairs if label >= 0])
        return found

    return detect
