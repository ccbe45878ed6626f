"""Base class for judges made of a classifier, whose questions are the names of its classes.

With logits l of K classes, and J the classes that the concept names (a word such as "crane" may name two),

    score(c | image) = sigmoid(log sum_{j in J} exp(l_j) - max_{k not in J} l_k)

which is the probability of the concept against its strongest rival alone. It is 1/2 or more exactly where the concept
is the classifier's first choice, so that the threshold 1/2 is the literature's top-1 rule. A question `CONCEPT@top3`
takes the third strongest rival instead: top 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.errors import BadInput
from efface.judges.base import Pixels, Scores
from efface.judges.shared.questions import split_rule
from efface.judges.shared.weights import version_of
from efface.models.pretrained import image_processor, open_network
from efface.request.names import name_key, plain_words

# With more classes than this, the answers that matter would be lost among those for all other classes.
_FEW = 100
_TOP = re.compile(r"top(\d{1,6})")
_BATCH = 64


class ClassifierJudge:
    """Answers questions about a closed world of classes.

    Args:
        name: The judge's name on the command line.
        version: The version of weights and settings.
        classes: The words of each class, its name first.
        logits: The classifier: images of shape (n, H, W, 3) to logits of shape (n, K).
        alternatives: Concepts that the run distinguishes. With more than 100 classes, these are the peers.
        rivals: The number of classes, from the first, that compete with a concept; the classes after them are only
            asked for. By default all compete.
    """

    def __init__(
        self,
        name: str,
        version: str,
        classes: Sequence[Sequence[str]],
        logits: Callable[[Pixels], Tensor],
        alternatives: Sequence[str] = (),
        rivals: int | None = None,
    ) -> None:
        self._rivals = len(classes) if rivals is None else rivals
        self.name, self.version = name, f"{version}, top-1 of {self._rivals} classes"
        self.logits = logits
        self.classes = tuple(words[0] for words in classes)
        self._words = list(dict.fromkeys(plain_words(word) for words in classes for word in words))
        self._indices: dict[str, tuple[int, ...]] = {}
        for index, words in enumerate(classes):
            for word in {name_key(word) for word in words}:
                self._indices[word] = (*self._indices.get(word, ()), index)
        known = [word for word in alternatives if self.knows(word)]
        self._peers = self.classes if len(classes) <= _FEW else tuple(known)

    def knows(self, concept: str) -> bool:
        return name_key(split_rule(concept)[0]) in self._indices

    def peers(self, concept: str) -> tuple[str, ...]:
        return tuple(name for name in self._peers if not self.same(name, concept))

    def same(self, one: str, other: str) -> bool:
        first, second = (self._indices.get(name_key(split_rule(words)[0])) for words in (one, other))
        return first is not None and first == second

    def threshold(self, concept: str) -> float:
        self._classes_of(concept)
        return 0.5

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        questions = [self._classes_of(concept) for concept in concepts]
        logits_nk = self.logits(images).cpu().double()
        columns: list[Scores] = []
        for indices, top in questions:
            concept = logits_nk[:, list(indices)].logsumexp(1)
            rivals = logits_nk[:, [k for k in range(self._rivals) if k not in indices]]
            if rivals.shape[1] >= top:
                rival = rivals.topk(top, 1).values[:, -1]
            else:
                rival = torch.full_like(concept, -torch.inf)
            columns.append((concept - rival).sigmoid().numpy())
        # A NaN among the rivals does not always reach the margin.
        return np.where(logits_nk.isfinite().all(1).numpy()[:, None], np.stack(columns, axis=1), np.nan)

    def _classes_of(self, concept: str) -> tuple[tuple[int, ...], int]:
        """The classes that a question names, and the k of its top-k rule."""
        word, rule = split_rule(concept)
        indices = self._indices.get(name_key(word))
        if indices is None:
            near = get_close_matches(plain_words(word), self._words, n=5, cutoff=0.5) or self.classes[:5]
            known = f"it knows {len(self.classes)} classes, such as {', '.join(near)}"
            raise BadInput(f"The judge '{self.name}' cannot recognise '{word}'; {known}.")
        top = _TOP.fullmatch(rule or "top1")
        if not top or not 1 <= int(top[1]) <= len(self.classes):
            raise BadInput(f"'@{rule}' is not a rule for '{word}'; write @top1, @top3 or another place.")
        return indices, int(top[1])


class TransformersClassifier:
    """Images to logits, by a `...ForImageClassification` of transformers and its image processor.

    Args:
        model: The network.
        processor: Its image processor, which uses PIL.
        device: The network's device.
    """

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self.model, self.processor, self.device = model, processor, device

    @torch.no_grad()
    def __call__(self, images: Pixels) -> Tensor:
        """Logits of shape (n, K) for images of shape (n, H, W, 3)."""
        parts: list[Tensor] = []
        for start in range(0, len(images), _BATCH):
            pixels = self.processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
            parts.append(self.model(pixel_values=pixels.to(self.device)).logits)
        return torch.cat(parts)


def open_classifier(weights: str, device: str) -> tuple[TransformersClassifier, list[str], str]:
    """Open a classifier of transformers.

    Args:
        weights: A folder or hub id.
        device: The torch device to compute on.

    Returns:
        The classifier, the names of its classes, and its version.
    """
    from transformers import AutoModelForImageClassification

    model = open_network(AutoModelForImageClassification, weights, "an image classifier", device)
    names = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    version = f"{version_of(weights, model)}, PIL"
    return TransformersClassifier(model, image_processor(weights), device), names, version


def words_of_label(label: str) -> list[str]:
    """A label, and the synonyms that its commas separate."""
    return [label, *(word.strip() for word in label.split(",") if word.strip())]
