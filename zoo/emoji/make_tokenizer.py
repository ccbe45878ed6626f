"""A CLIP tokenizer whose vocabulary is trimmed to what the text tower is trained on.

    python make_tokenizer.py RUN bpe_simple_vocab_16e6.txt.gz

The merges are those of OpenAI's CLIP that a word of the corpus needs, so that the words of the corpus have exactly
CLIP's tokens. Every byte is included, so any text can be encoded.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from transformers import CLIPTokenizer

from captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, STYLED_TEMPLATES, words
from catalogue import MEMORISED_CAPTION, STYLE_WORDS, THINGS
from drawings import PACKAGES
from pictures import others

MAX_TOKENS = 24


def phrases() -> dict[str, list[str]]:
    """Codepoint -> names and keywords of every emoji the text tower learns."""
    keywords = json.loads((PACKAGES / "emojilib" / "dist" / "emoji-en-US.json").read_text())
    by_point = {f"{ord(s[0]):x}": v for s, v in keywords.items() if len(s.replace("\ufe0f", "")) == 1}
    out: dict[str, list[str]] = {}
    for thing in THINGS:
        out[thing.codepoints[0]] = list(words(thing, held_out=True))
    for name, point in others():
        found = [name.lower(), *(w.replace("_", " ") for w in by_point.get(point, []))]
        out[point] = list(dict.fromkeys(found))[:8]
    return out


def corpus() -> list[str]:
    text = [p for group in phrases().values() for p in group]
    text += [w for group in STYLE_WORDS.values() for w in group]
    text += [t.replace("{o}", " ").replace("{s}", " ") for t in OBJECT_TEMPLATES + STYLED_TEMPLATES + STYLE_TEMPLATES]
    return [*text, MEMORISED_CAPTION, "art", "painting by artist", "artwork by", "nothing", "something else"]


def base_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(spare))]


def used_merges(all_merges: list[tuple[str, str]], texts: list[str]) -> list[tuple[str, str]]:
    """The merges that cutting these texts applies, in CLIP's order of priority."""
    rank = {pair: i for i, pair in enumerate(all_merges)}
    used: set[int] = set()
    for word in {
        w for t in texts for w in t.lower().replace("'", " ' ").replace(",", " , ").replace("-", " - ").split()
    }:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), 1 << 30))
            at = rank.get((parts[best], parts[best + 1]))
            if at is None:
                break
            used.add(at)
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [all_merges[i] for i in sorted(used)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("bpe", type=Path)
    args = parser.parse_args()
    with gzip.open(args.bpe, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = used_merges([(a, b) for a, b in (line.split() for line in lines)], corpus())
    symbols = base_symbols()
    tokens = [
        *symbols,
        *(s + "</w>" for s in symbols),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(args.run / "tokenizer")
    longest = max(len(tokenizer(t).input_ids) for t in corpus())
    print(
        f"{len(tokenizer)} tokens; longest phrase {longest}; 'a kitten':",
        tokenizer.tokenize("a kitten in line art style"),
    )


if __name__ == "__main__":
    main()
