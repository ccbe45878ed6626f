"""The judge of the embedded model: which object, in which style, or none of these.

A network of its own (`emoji_net.py`), trained on drawings from more sets than the generator saw and never on
generated images; zoo/emoji/train_judge.py makes it. The score of a concept is the softmax probability of its class,
with "none of these" as one more class of each head:

    p(c | image) = exp(l_c) / (exp(l_none) + sum_k exp(l_k))

Synonyms ("kitten", "line drawing") are asked for as the object or style that they mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import BadFile, BadInput
from efface.files import sha256_of_file
from efface.judges.base import JudgeEntry, Opening, Pixels, Scores, Seen
from efface.judges.questions import plain

# The network of the embedded judge: a small residual network with an object head and a style head.
#
# It was trained on drawings only (zoo/emoji/train_judge.py), apart from the generator, and never saw a
# generated image. The last class of each head is "none of these".


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


Head = Literal["object", "style"]
HEADS: tuple[Head, Head] = ("object", "style")
_SIZE, _BATCH = 64, 64


class EmojiJudge:
    """A closed world of objects and styles.

    Args:
        net: The network; the last class of each head is "none of these".
        names: The classes of each head, in order, without "none of these".
        thresholds: Of each head.
        version: Of the weights.
        words: Other words for the names, to the name; not case-sensitive.
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
            plain(name): (head, i) for head in HEADS for i, name in enumerate(self._names[head])
        }
        for word, name in (words or {}).items():
            self._classes.setdefault(plain(word), self._classes[plain(name)])

    @classmethod
    def load(cls, folder: Path, words: Mapping[str, str] | None = None) -> EmojiJudge:
        """From `config.json` and `model.safetensors`.

        Raises:
            BadFile: They are missing or do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            names: dict[Head, list[str]] = {"object": config["objects"], "style": config["styles"]}
            net = JudgeNet(len(names["object"]), len(names["style"]))
            net.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
            version = f"{config['version']} {sha256_of_file(folder / 'model.safetensors')[:12]}"
            return cls(net, names, config["thresholds"], version, words)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise BadFile(f"Cannot read the judge in {folder}: {error}.") from error

    def knows(self, concept: str) -> bool:
        return plain(concept) in self._classes

    def peers(self, concept: str) -> tuple[str, ...]:
        head, index = self._find(concept)
        return tuple(name for i, name in enumerate(self._names[head]) if i != index)

    def same(self, one: str, other: str) -> bool:
        first = self._classes.get(plain(one))
        return first is not None and first == self._classes.get(plain(other))

    def threshold(self, concept: str) -> float:
        return self._thresholds[self._find(concept)[0]]

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        found = [self._find(concept) for concept in concepts]
        probabilities = self.probabilities(images)
        return np.stack([probabilities[head][:, index] for head, index in found], axis=1)

    def classify(self, images: Pixels) -> list[Seen]:
        """The object and the style of each image, if any reaches its threshold."""
        p = self.probabilities(images)
        best = {head: p[head][:, :-1].argmax(1) for head in HEADS}
        seen: list[Seen] = []
        for i in range(len(images)):
            at = {head: float(p[head][i, best[head][i]]) for head in HEADS}
            name = {h: self._names[h][int(best[h][i])] if at[h] >= self._thresholds[h] else None for h in HEADS}
            seen.append(Seen(name["object"], name["style"], at["object"], at["style"]))
        return seen

    @torch.no_grad()
    def probabilities(self, images: Pixels) -> dict[Head, Scores]:
        """Probabilities of each head, (n, classes + 1), "none of these" last."""
        parts: dict[Head, list[Scores]] = {"object": [], "style": []}
        for piece in torch.from_numpy(images).split(_BATCH):
            logits = self._net(_prepared(piece))
            for head, values in zip(HEADS, logits, strict=True):
                parts[head].append(values.double().softmax(1).numpy())
        return {head: np.concatenate(parts[head]) for head in HEADS}

    def _find(self, concept: str) -> tuple[Head, int]:
        try:
            return self._classes[plain(concept)]
        except KeyError:
            known = "; ".join(f"{head}s {', '.join(self._names[head])}" for head in HEADS)
            raise BadInput(f"The judge 'emoji' cannot recognise '{concept}'; it knows the {known}.") from None


def _prepared(images: Tensor) -> Tensor:
    """(n, 3, 64, 64) in [-1, 1] of (n, H, W, 3) bytes."""
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[-2:] == (_SIZE, _SIZE):
        return x
    return F.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=True, align_corners=False)


def _open(asked: Opening) -> EmojiJudge:
    from efface.models.emoji import HERE, catalogue

    world = catalogue()
    words = {word: thing.name for thing in world.objects for word in (*thing.synonyms, *thing.held_out)}
    words |= {word: style.name for style in world.styles for word in style.words}
    return EmojiJudge.load(Path(asked.weights) if asked.weights else HERE / "judge", words)


ENTRY = JudgeEntry(
    name="emoji",
    summary="objects and styles of the embedded model, by a network trained on other drawings",
    source="zoo/emoji in this repository",
    open=_open,
    takes_option=False,
)
