"""The judge of the embedded model: the object in an image, its style, or none of the known ones.

A small residual network with an object head and a style head (`JudgeNet`), which shares nothing with the generator. It
was trained on drawings from more sets than the generator saw, and never on generated images
(zoo/emoji/train_judge.py). The score of a concept is the softmax probability of its class, with "none of these" as the
last class of each head:

    p(c | image) = exp(l_c) / (exp(l_none) + sum_k exp(l_k))

Synonyms ("kitten", "line drawing") count as the object or style that they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from efface.files import sha256_of_file
from efface.judges.base import JudgeEntry, JudgeOptions, Pixels, Scores
from efface.judges.shared.unknown import unrecognised
from efface.models.builtin import World
from efface.models.emoji import HERE, catalogue
from efface.parsing import Schema, library_errors, read_json
from efface.request.names import name_key
from efface.tensor_files import check_tensors, read_safetensors

Head = Literal["object", "style"]
HEADS: tuple[Head, Head] = ("object", "style")
_WIDTHS = (32, 64, 128, 192)
_SIZE, _BATCH = 64, 64


class Recognition(NamedTuple):
    """The object and the style that the judge recognises in one image; `None` means none of the known ones.

    Attributes:
        object: The object.
        style: The style.
        object_p: Probability of the most likely object.
        style_p: Probability of the most likely style.
    """

    object: str | None
    style: str | None
    object_p: float
    style_p: float


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (n, inputs, H, W) to (n, outputs, H/stride, W/stride).

    Args:
        inputs: Channels before.
        outputs: Channels after.
        stride: The stride of the first convolution, 1 or 2.
    """

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
    """The style of a picture from the statistics of local contrasts: (n, 3, 64, 64) to (n, styles + 1).

    There is no normalisation layer, because a flat colour and a soft shade differ by little, which it would hide.

    Args:
        styles: The number of styles.
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
    """Pictures in [-1, 1], (n, 3, 64, 64), to object logits (n, objects + 1) and style logits (n, styles + 1).

    Args:
        objects: The number of objects.
        styles: The number of styles.
    """

    def __init__(self, objects: int, styles: int):
        super().__init__()
        self.stem = nn.Conv2d(3, _WIDTHS[0], 3, 2, 1)
        self.blocks = nn.ModuleList()
        inputs = _WIDTHS[0]
        for i, width in enumerate(_WIDTHS):
            self.blocks.append(ResidualBlock(inputs, width, 1 if i == 0 else 2))
            self.blocks.append(ResidualBlock(width, width, 1))
            inputs = width
        self.object_head = nn.Linear(inputs, objects + 1)
        self.style = StyleNet(styles)

    def objects(self, x: Tensor) -> Tensor:
        """The object logits only: (n, 3, 64, 64) to (n, objects + 1)."""
        x = F.silu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.object_head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.objects(x), self.style(x)


class EmojiThresholds(Schema):
    """The lowest score of a yes, by head."""

    object: float = Field(ge=0, le=1)
    style: float = Field(ge=0, le=1)


class EmojiJudgeConfig(Schema):
    """The content of `config.json`."""

    objects: list[str] = Field(min_length=1)
    styles: list[str] = Field(min_length=1)
    thresholds: EmojiThresholds
    version: str


class EmojiJudge:
    """Answers questions about a closed world of objects and styles.

    Args:
        net: The network.
        names: The classes of each head in order, without "none of these".
        thresholds: The threshold of each head.
        version: The version of the weights.
        words: The name that each synonym means; case does not matter.
    """

    name = "emoji"

    def __init__(
        self,
        net: JudgeNet,
        names: Mapping[Head, Sequence[str]],
        thresholds: Mapping[Head, float],
        version: str,
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self._net = net.eval().requires_grad_(False)
        self._names = {head: tuple(names[head]) for head in HEADS}
        self._thresholds = dict(thresholds)
        self._classes: dict[str, tuple[Head, int]] = {
            name_key(name): (head, i) for head in HEADS for i, name in enumerate(self._names[head])
        }
        for word, name in (words or {}).items():
            self._classes.setdefault(name_key(word), self._classes[name_key(name)])

    @classmethod
    def load(cls, folder: Path, words: Mapping[str, str] | None = None) -> EmojiJudge:
        """Open a judge from `config.json` and `model.safetensors`.

        Args:
            folder: The folder of the two files.
            words: The name that each synonym means; case does not matter.

        Raises:
            BadFile: A file is missing, or they do not fit together.
        """
        with library_errors(f"Cannot read the judge in {folder}"):
            config = EmojiJudgeConfig.model_validate(read_json(folder / "config.json", "the judge"))
            weights = folder / "model.safetensors"
            _, tensors = read_safetensors(weights, "the judge")
            check_tensors(tensors, str(weights), finite=False)
            net = JudgeNet(len(config.objects), len(config.styles))
            net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
            version = f"{config.version} {sha256_of_file(weights)[:12]}"
            names: dict[Head, list[str]] = {"object": config.objects, "style": config.styles}
            thresholds: dict[Head, float] = {"object": config.thresholds.object, "style": config.thresholds.style}
            return cls(net, names, thresholds, version, words)

    @property
    def world(self) -> World:
        return catalogue()

    def knows(self, concept: str) -> bool:
        return name_key(concept) in self._classes

    def peers(self, concept: str) -> tuple[str, ...]:
        head, index = self._find(concept)
        return tuple(name for i, name in enumerate(self._names[head]) if i != index)

    def same(self, one: str, other: str) -> bool:
        first = self._classes.get(name_key(one))
        return first is not None and first == self._classes.get(name_key(other))

    def threshold(self, concept: str) -> float:
        return self._thresholds[self._find(concept)[0]]

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        classes = [self._find(concept) for concept in concepts]
        probabilities = self.probabilities(images)
        return np.stack([probabilities[head][:, index] for head, index in classes], axis=1)

    def classify(self, images: Pixels) -> list[Recognition]:
        """The object and the style in each image (n, H, W, 3), if they reach their thresholds."""
        p = self.probabilities(images)
        best = {head: p[head][:, :-1].argmax(1) for head in HEADS}
        recognitions: list[Recognition] = []
        for i in range(len(images)):
            at = {head: float(p[head][i, best[head][i]]) for head in HEADS}
            name = {h: self._names[h][int(best[h][i])] if at[h] >= self._thresholds[h] else None for h in HEADS}
            recognitions.append(Recognition(name["object"], name["style"], at["object"], at["style"]))
        return recognitions

    @torch.no_grad()
    def probabilities(self, images: Pixels) -> dict[Head, Scores]:
        """Probabilities of each head, of shape (n, classes + 1), for images of shape (n, H, W, 3)."""
        parts: dict[Head, list[Scores]] = {"object": [], "style": []}
        for piece in torch.from_numpy(images).split(_BATCH):
            logits = self._net(_prepared(piece))
            for head, values in zip(HEADS, logits, strict=True):
                parts[head].append(values.double().softmax(1).numpy())
        return {head: np.concatenate(parts[head]) for head in HEADS}

    def _find(self, concept: str) -> tuple[Head, int]:
        try:
            return self._classes[name_key(concept)]
        except KeyError:
            known = "; ".join(f"{head}s {', '.join(self._names[head])}" for head in HEADS)
            raise unrecognised(self, concept, f"it knows the {known}") from None


def _prepared(images: Tensor) -> Tensor:
    """Bytes of shape (n, H, W, 3) to values in [-1, 1] of shape (n, 3, 64, 64)."""
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[-2:] == (_SIZE, _SIZE):
        return x
    return F.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=True, align_corners=False)


def _open(options: JudgeOptions) -> EmojiJudge:
    world = catalogue()
    words = {word: thing.name for thing in world.objects for word in (*thing.synonyms, *thing.held_out)}
    words |= {word: style.name for style in world.styles for word in style.words}
    return EmojiJudge.load(Path(options.weights) if options.weights else HERE / "judge", words)


ENTRY = JudgeEntry(
    name="emoji",
    summary="objects and styles of the embedded model, by a network trained on other drawings",
    source="zoo/emoji in this repository",
    open=_open,
    takes_option=False,
)
