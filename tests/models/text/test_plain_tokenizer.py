"""The tokenizer without transformers against that of transformers, and the folders that are left to transformers."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from transformers import CLIPTokenizer

from efface import open_model
from efface.models.emoji import HERE
from efface.models.families.sd import StableDiffusion
from efface.models.storage.folder import INDEX, Folder
from efface.models.text.plain_tokenizer import PlainTokenizer
from efface.models.text.tokens import token_ids

WEIGHTS = HERE / "weights"
THEIRS = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
HARD = [
    "", " ", "a cat", "A CAT", "  a\tcat \n on\u00a0a\u2003mat\u200b ", "Van Gogh's, they're we'll I'd 'tis", "don't",
    "café", unicodedata.normalize("NFD", "café"), "Straße İstanbul ΣΑΣ ﬁne", "ǅ ß ẞ", "한국어 中文 日本語",
    "العربية עברית",
    "🐈‍⬛ 👩‍👩‍👧 🇯🇵 ❤️", "3.14 1,000 ² ½ Ⅷ ٣", "<|startoftext|>", "a<|endoftext|>b", "<|ENDOFTEXT|>", "<|endoftext|",
    " <|endoftext|> cat", "<toy> <toy>_1", "</w> cat</w>", "a_b-c/d\\e", "!?…—«»", "\x00\x07\x1b[31m", "\ufeffcat",
    "\ufffd\U0010ffff", "cat " * 200, "x" * 1000, "é" * 300, "\u0301cat", "cat\u0301\u0323", "ＣＡＴ", "Ǆ", "\r\n",
]  # fmt: skip
PLAIN = PlainTokenizer.of(Folder(WEIGHTS))


def ours() -> PlainTokenizer:
    assert PLAIN is not None
    return PLAIN


def test_all_that_embedding_reads_is_that_of_transformers() -> None:
    assert ours()(HARD)["input_ids"] == THEIRS(HARD)["input_ids"]
    assert (ours().pad_token_id, ours().model_max_length) == (THEIRS.pad_token_id, THEIRS.model_max_length)
    assert (len(ours()), ours().get_vocab()) == (len(THEIRS), THEIRS.get_vocab())
    assert ours().get_added_vocab() == THEIRS.get_added_vocab()


def random_text(draw: random.Random) -> str:
    """Pieces of hard texts, words, and any characters except surrogates."""

    def piece() -> str:
        character = chr(draw.choice([draw.randrange(0x250), draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]))
        return draw.choice([draw.choice(HARD)[:20], "cat", " ", "'s", "\u0301", character])

    return "".join(piece() for _ in range(draw.randrange(12)))


def test_random_texts_have_the_ids_of_transformers() -> None:
    draw = random.Random(0)
    prompts = [random_text(draw) for _ in range(500)]
    for found, expected in zip(
        token_ids(ours(), prompts, 24, truncate=True), token_ids(THEIRS, prompts, 24, truncate=True), strict=True
    ):
        assert found.tolist() == expected.tolist()


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """A change of a JSON file in a folder."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def in_file(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return edited("tokenizer/tokenizer.json", change)


def in_settings(**values: Any) -> Callable[[Path], Any]:
    return edited("tokenizer/tokenizer_config.json", lambda content: content.update(values))


ADDED = {"content": "<toy>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
CHANGES = {
    "another class": edited(INDEX, lambda content: content.update(tokenizer=["transformers", "T5Tokenizer"])),
    "class in settings": in_settings(tokenizer_class="GPT2Tokenizer"),
    "another padding": in_settings(pad_token="!"),
    "a further token": in_settings(extra_special_tokens=["<toy>"]),
    "no longest prompt": in_settings(model_max_length=None),
    "an added token": in_file(lambda content: content["added_tokens"].append({"id": 4995, "special": False, **ADDED})),
    "another normaliser": in_file(lambda content: content["normalizer"]["normalizers"].pop()),
    "a truncation": in_file(lambda content: content.update(truncation={"max_length": 3})),
    "no end": in_file(lambda content: content["model"]["vocab"].pop("<|endoftext|>")),
    "a text as an id": in_file(lambda content: content["model"]["vocab"].update({"<|endoftext|>": "1"})),
    "no merges": in_file(lambda content: content["model"].pop("merges")),
    "an impossible merge": in_file(lambda content: content["model"]["merges"].append(["zq", "qz"])),
    "no vocabulary": in_file(lambda content: content.pop("model")),
    "not JSON": lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text("{"),
    "no file": lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(),
    "a further file": lambda folder: (folder / "tokenizer" / "added_tokens.json").write_text('{"<toy>": 4995}'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_folders_are_left_to_transformers(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    copytree(WEIGHTS / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / INDEX).write_text((WEIGHTS / INDEX).read_text())
    assert PlainTokenizer.of(Folder(tmp_path)) is not None
    change(tmp_path)
    assert PlainTokenizer.of(Folder(tmp_path)) is None


def test_it_is_used_until_the_tokenizer_of_transformers_is() -> None:
    model = open_model("emoji")
    assert isinstance(model, StableDiffusion)
    before = model.embed(["a cat", "Ein Hörnchen"]).tokens
    assert isinstance(model._tokenizing("tokenizer"), PlainTokenizer)
    model.tokenizer.add_tokens(["zebra cat"])  # a change by the user counts from now on
    assert model._tokenizing("tokenizer") is model.tokenizer
    assert model.embed(["a cat", "Ein Hörnchen"]).tokens.equal(before)
