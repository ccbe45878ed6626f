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
        self.short = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + self.short(x))


class StyleNet(nn.Module):
    """How a picture is drawn, not what: local contrasts at full resolution, and how they are spread.

    No normalisation: a flat colour and a soft shade differ by little, which a norm would hide.
    """

    def __init__(self, styles: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 24, 3, 1, 1),
                nn.Conv2d(24, 32, 3, 2, 1),
                nn.Conv2d(32, 64, 3, 2, 1),
                nn.Conv2d(64, 64, 3, 2, 1),
            ]
        )
        self.hidden = nn.Linear(2 * (24 + 32 + 64 + 64), 96)
        self.head = nn.Linear(96, styles + 1)

    def forward(self, x: Tensor) -> Tensor:
        statistics: list[Tensor] = []
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
            statistics += [x.mean((2, 3)), x.square().mean((2, 3)).add(1e-6).sqrt()]
        return self.head(F.silu(self.hidden(torch.cat(statistics, 1))))


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
        self.style = StyleNet(styles)

    def objects(self, x: Tensor) -> Tensor:
        """Object logits alone."""
        x = F.silu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.object_head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.objects(x), self.style(x)
