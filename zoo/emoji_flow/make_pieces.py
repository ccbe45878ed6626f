"""The T5 tokenizer of emoji-flow: pieces of the captions' words, in the layout of T5.

    python make_pieces.py RUN

A unigram model (https://arxiv.org/abs/1804.10959) trained on the words that the text encoder learns. As in T5, the ids
0, 1 and 2 are padding, end and unknown; there is no start token. Unlike T5's, the tokenizer reads lower case only, as
the CLIP tokenizer of `emoji` does.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import T5Tokenizer

from captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, STYLED_TEMPLATES, words
from catalogue import STYLE_WORDS, THINGS
from make_tokenizer import MAX_TOKENS, corpus

PIECES = 4000
SPECIAL = ("<pad>", "</s>", "<unk>")
_CHARACTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]


def sentences() -> list[str]:
    """The corpus of names and keywords, and every caption of an object without its style."""
    templates = [t.replace("{o}", "{}").replace("{s}", "") for t in (*OBJECT_TEMPLATES, *STYLED_TEMPLATES)]
    objects = [t.format(word) for thing in THINGS for word in words(thing, held_out=True) for t in templates]
    styles = [t.format(s=word) for group in STYLE_WORDS.values() for word in group for t in STYLE_TEMPLATES]
    return [text.lower() for text in (*corpus(), *objects, *styles)]


def make(folder: Path) -> T5Tokenizer:
    """Train the pieces and save the tokenizer."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES,
        special_tokens=list(SPECIAL),
        unk_token="<unk>",
        initial_alphabet=_CHARACTERS,
        show_progress=False,
    )
    unigram.train_from_iterator(sentences(), trainer)
    pieces = _with_scores(unigram)
    lowest = min(score for _, score in pieces)
    missing = [c for c in ("▁", *_CHARACTERS) if c not in dict(pieces)]
    vocab = [(token, 0.0) for token in SPECIAL] + pieces + [(c, lowest - 1) for c in missing]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[], model_max_length=MAX_TOKENS)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(folder)
    return tokenizer


def _with_scores(unigram: Tokenizer) -> list[tuple[str, float]]:
    """The learned pieces with their log probabilities."""
    import json

    vocab = json.loads(unigram.to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in vocab if piece not in SPECIAL and math.isfinite(score)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    tokenizer = make(args.run / "tokenizer_2")
    longest = max(len(tokenizer(text).input_ids) for text in corpus())
    print(f"{len(tokenizer)} tokens; longest phrase {longest}")
    for text in ("a kitten in line art style", "a Portrait of a soccer ball", "zebra crossing 7 x"):
        print(tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids))


if __name__ == "__main__":
    main()
