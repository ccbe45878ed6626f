"""The network of the embedded judge: a small residual network with an object head and a style head.

It was trained on drawings only (zoo/emoji/train_judge.py), apart from the generator, and never saw a
generated image. The last class of each head is "none of these".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128, 192)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + self.short(x))


class JudgeNet(nn.Module):
    """Pictures in [-1, 1], (n, 3, 64, 64), to object logits (n, objects + 1) and style logits (n, styles + 1)."""

    def __init__(self, objects: int, styles: int):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, 2, 1)
        self.blocks = nn.ModuleList()
        inputs = WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            self.blocks.append(Block(inputs, width, 1 if i == 0 else 2))
            self.blocks.append(Block(width, width, 1))
            inputs = width
        self.object_head = nn.Linear(inputs, objects + 1)
        # Style is texture as much as shape: its head also reads the early, fine-grained maps.
        self.style_head = nn.Linear(inputs + WIDTHS[1], styles + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.stem(x))
        early = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 3:
                early = x
        features = x.mean((2, 3))
        return self.object_head(features), self.style_head(torch.cat((features, early.mean((2, 3))), 1))
