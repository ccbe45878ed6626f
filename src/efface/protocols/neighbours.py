"""Which concepts are near an erased one: a proposal by the text encoder, for a person to confirm.

Near neighbours are words whose last subject token has the largest cosine with the concept's, both minus the mean over
all candidates, since the embeddings of a text encoder lie in a narrow cone:

    near(c) = top_w cos(T(w) - m, T(c) - m),   m = mean_w T(w)

An embedding reflects spelling as well as meaning, so a proposal is never measured by itself: only what a request lists
under `adjacent` is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.functional import normalize

from efface.errors import BadInput
from efface.models import Model
from efface.request.record import Concept, Request

_SHORTEST = 3


def propose_neighbours(
    model: Model, request: Request, candidates: Sequence[str] | None = None, count: int = 10
) -> dict[str, list[str]]:
    """By concept, its nearest candidates, the nearest first, without spellings of what is erased.

    Args:
        model: The model whose text encoder compares the words.
        request: What is erased.
        candidates: Words or concepts; None takes every word of the tokenizer.
        count: Number of neighbours of each concept.

    Raises:
        BadInput: The model's tokenizer lists no words, and there is no candidate.
    """
    words = list(dict.fromkeys(candidates if candidates is not None else model.words()))
    words = [word for word in words if len(word) >= _SHORTEST and not _is_spelling(word, request.concepts)]
    if not words:
        raise BadInput(f"The tokenizer of {model.name} has no words to propose; write neighbours into the request.")
    tokens = model.last_tokens([*words, *request.names], clip_skip=request.clip_skip, truncate=True)
    k = len(tokens) // (len(words) + len(request.names))  # sequences of one prompt
    rows = tokens.double().unflatten(0, (-1, k)).flatten(1)
    rows = normalize(rows - rows[: len(words)].mean(dim=0), dim=1)
    of_words, of_concepts = rows[: len(words)], rows[len(words) :]
    nearest = (of_concepts @ of_words.T).topk(min(count, len(words)), dim=1).indices.tolist()
    return {name: [words[i] for i in row] for name, row in zip(request.names, nearest, strict=True)}


def _is_spelling(word: str, concepts: Sequence[Concept]) -> bool:
    """Whether a word is one of an erased concept's, or a longer or shorter form of one (cats, catlike)."""
    names = " ".join(name for concept in concepts for name in (concept.name, *concept.aliases)).casefold().split()
    word = word.casefold()
    return any(word.startswith(part) or part.startswith(word) for part in names if len(part) >= _SHORTEST)
