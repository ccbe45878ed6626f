"""CLIP's tokenizer by the package `tokenizers` alone, for runs that only need embeddings of prompts.

Importing transformers takes longer than all else of erasing a concept. Its `CLIPTokenizer` builds its tokenizer of the
package `tokenizers` from the vocabulary, the merges and the added tokens of `tokenizer.json`. A file that describes
exactly this tokenizer, as transformers writes it, is read as it is; every other folder is left to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.errors import BadFile
from efface.models.storage.folder import Folder
from efface.parsing import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PART = "tokenizer"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_FILE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_FILES = {_FILE, _SETTINGS, "vocab.json", "merges.txt"}  # transformers reads the latter two only without the first
_TOKENS = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
#: Settings that do not change the ids: where transformers saved the tokenizer from, and the limit that efface checks.
_WITHOUT_EFFECT = {"backend", "is_local", "local_files_only", "model_max_length", "tokenizer_class"}
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_BYTES = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True, eq=False)
class PlainTokenizer:
    """A tokenizer with the calls of transformers' one that embedding prompts needs.

    Attributes:
        rust: The tokenizer of the package `tokenizers`.
        model_max_length: The longest prompt in tokens.
        pad_token_id: The id of padding.
    """

    rust: Tokenizer
    model_max_length: int
    pad_token_id: int

    @classmethod
    def of(cls, folder: Folder) -> PlainTokenizer | None:
        """The tokenizer of a diffusers folder; None if it is another than CLIP's, changed, or incomplete.

        Args:
            folder: The folder.
        """
        place = folder.root / _PART
        if folder.index().get(_PART) != ["transformers", "CLIPTokenizer"] or not place.is_dir():
            return None
        if not {_FILE, _SETTINGS} <= {path.name for path in place.iterdir()} <= _FILES:
            return None
        try:
            settings, content = read_json(place / _SETTINGS), read_json(place / _FILE)
        except BadFile:
            return None
        longest = settings.get("model_max_length")
        if type(longest) is not int or not _is_clip(settings, content):
            return None
        from tokenizers import Tokenizer

        try:
            rust = Tokenizer.from_file(str(place / _FILE))
        except Exception:  # the package raises this class itself; transformers states what is wrong
            return None
        return cls(rust, longest, content["model"]["vocab"][_END])

    def __call__(self, prompts: Sequence[str]) -> dict[str, list[list[int]]]:
        """The ids of each prompt, with start and end token."""
        return {"input_ids": [encoding.ids for encoding in self.rust.encode_batch(list(prompts))]}

    def __len__(self) -> int:
        return self.rust.get_vocab_size()

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens and their ids: start and end."""
        return {token.content: index for index, token in self.rust.get_added_tokens_decoder().items()}

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their ids."""
        return self.rust.get_vocab()


def _is_clip(settings: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether the files of a tokenizer describe that of `CLIPTokenizer`, with any vocabulary and merges."""
    if settings.get("tokenizer_class") != "CLIPTokenizer":
        return False
    if {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT} != _TOKENS:
        return False
    model = content.get("model")
    vocabulary, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return False
    if any(type(vocabulary.get(token)) is not int for token in (_START, _END)):
        return False
    return content == _description(vocabulary, merges)


def _description(vocabulary: Mapping[str, int], merges: Sequence[Any]) -> dict[str, Any]:
    """The content of `tokenizer.json` for a `CLIPTokenizer`."""
    start, end = vocabulary[_START], vocabulary[_END]
    as_is = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    words = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": name, **as_is} for index, name in sorted([(start, _START), (end, _END)])
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, {**_BYTES, "add_prefix_space": False}]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [_END, end],
            "cls": [_START, start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {**_BYTES, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
