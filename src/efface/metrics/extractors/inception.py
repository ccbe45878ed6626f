"""FID's Inception v3, from a weights file of the user.

Szegedy et al., arXiv 1512.00567, as in the TensorFlow graph of 2015-12-05 with which FID was defined. It differs from
torchvision's network in its average pools, which ignore the padding, and in a maximum pool in the last block. The names
of the weights are those of https://github.com/mseitzer/pytorch-fid (pt_inception-2015-12-05-6726825d.pth) and
https://github.com/toshas/torch-fidelity (weights-inception-2015-12-05-6726825d.pth). 2048 features, of images resized
to 299 x 299 as by TensorFlow 1, torch-fidelity and torchmetrics. pytorch-fid and clean-fid each resize in another way;
their values are close to these but not equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import BadInput
from efface.generation.folder import Pixels
from efface.metrics.features import Extractor, ExtractorEntry, ModuleExtractor, load_weights

_SIDE = 299


class ConvUnit(nn.Module):
    """Convolution, normalisation and ReLU: (n, inputs, H, W) to (n, outputs, H', W').

    Args:
        inputs: Channels before.
        outputs: Channels after.
        kernel: Size of the convolution.
        stride: Stride of the convolution.
        padding: Padding of the convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _row(inputs: int, outputs: int) -> ConvUnit:
    return ConvUnit(inputs, outputs, (1, 7), padding=(0, 3))


def _column(inputs: int, outputs: int) -> ConvUnit:
    return ConvUnit(inputs, outputs, (7, 1), padding=(3, 0))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """(n, inputs, 35, 35) to (n, 224 + pool, 35, 35).

    Args:
        inputs: Channels before.
        pool: Channels of the pooled branch.
    """

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 64, 1)
        self.branch5x5_1 = ConvUnit(inputs, 48, 1)
        self.branch5x5_2 = ConvUnit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvUnit(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, padding=1)
        self.branch_pool = ConvUnit(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """(n, 288, 35, 35) to (n, 768, 17, 17)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvUnit(288, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """(n, 768, 17, 17) to (n, 768, 17, 17).

    Args:
        width: Channels within the 7 x 7 branches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(768, 192, 1)
        self.branch7x7_1 = ConvUnit(768, width, 1)
        self.branch7x7_2 = _row(width, width)
        self.branch7x7_3 = _column(width, 192)
        self.branch7x7dbl_1 = ConvUnit(768, width, 1)
        self.branch7x7dbl_2 = _column(width, width)
        self.branch7x7dbl_3 = _row(width, width)
        self.branch7x7dbl_4 = _column(width, width)
        self.branch7x7dbl_5 = _row(width, 192)
        self.branch_pool = ConvUnit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """(n, 768, 17, 17) to (n, 1280, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(768, 192, 1)
        self.branch3x3_2 = ConvUnit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvUnit(768, 192, 1)
        self.branch7x7x3_2 = _row(192, 192)
        self.branch7x7x3_3 = _column(192, 192)
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """(n, inputs, 8, 8) to (n, 2048, 8, 8).

    Args:
        inputs: Channels before.
        max_pool: Whether to pool by the maximum, as FID's graph does in its last block, or by the mean.
    """

    def __init__(self, inputs: int, max_pool: bool) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(inputs, 320, 1)
        self.branch3x3_1 = ConvUnit(inputs, 384, 1)
        self.branch3x3_2a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvUnit(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvUnit(inputs, 192, 1)
        self.max_pool = max_pool

    def forward(self, x: Tensor) -> Tensor:
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pool else _average(x)
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *threes, *doubles, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """Images (n, 3, 299, 299) in [-1, 1] to features (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a, self.Mixed_6b = BlockB(), BlockC(128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = BlockC(160), BlockC(160), BlockC(192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = BlockD(), BlockE(1280, False), BlockE(2048, True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def resize_as_tensorflow(image: Pixels) -> Tensor:
    """Resize an image (H, W, 3) to (3, 299, 299) in [-1, 1], with TensorFlow 1's bilinear resizing.

    A pixel's coordinates are those of its corner, not of its centre.
    """
    x = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
    height, width = x.shape[1:]
    return (_rows(height) @ x @ _rows(width).T - 128) / 128


def _rows(size: int) -> Tensor:
    """The matrix (299, size) that resizes one side."""
    at = torch.arange(_SIDE) * torch.tensor(size / _SIDE)
    low = at.long()
    share = (at - low)[:, None]
    one = torch.eye(size)
    return one[low] * (1 - share) + one[(low + 1).clamp(max=size - 1)] * share


def _open(argument: str, device: str | torch.device) -> Extractor:
    if not argument:
        raise BadInput("The extractor 'inception' needs FID's weights: inception:pt_inception-2015-12-05-6726825d.pth.")
    net = Inception()
    load_weights(net, argument)
    return ModuleExtractor(net, "inception-2015-12-05", resize_as_tensorflow, device)


ENTRY = ExtractorEntry(
    name="inception",
    summary="FID's Inception v3 (inception:FILE, weights of pytorch-fid or torch-fidelity), 2048 features",
    source="https://arxiv.org/abs/1512.00567",
    open=_open,
)
