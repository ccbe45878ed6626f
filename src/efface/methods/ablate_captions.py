"""Anchor prompts by a causal language model that runs here.

The published codes asked GPT-3.5 or ChatGPT over the network, later Llama-3-8B-Instruct; this takes any causal language
model of transformers, by folder or hub id, samples at the temperature that they give Llama, and asks again until there
are enough prompts, at most ten times. What a model wrote is kept in the cache, so that an interrupted training goes on
with the same prompts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from efface.errors import BadRequest
from efface.files import cache_folder, keep_in_cache, sha256_of_file
from efface.methods.ablate_anchors import anchor_of
from efface.models.pretrained import open_network, open_part
from efface.request import Concept

_TRIES, _NEW_TOKENS = 10, 2048
_TEMPERATURE, _TOP_P = 0.6, 0.9
_WEIGHTS = (".safetensors", ".bin")
# What models put before a line of a list, and around it.
_NUMBER = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*")


def question(concept: Concept, count: int) -> str:
    """What the model is asked."""
    if concept.kind == "memorised":
        return f"Say this caption in {count} other ways that keep its meaning, one a line: {concept.name}"
    anchor = anchor_of(concept)
    if concept.kind == "style":
        return f'Write {count} short captions of many sorts of pictures that are each a "{anchor}", one a line.'
    return (
        f"Write {count} short captions of many sorts of pictures that show a {anchor}, one a line. Say only what can "
        f'be seen. Each has the words "{anchor}" in it.'
    )


def captions(concept: Concept, weights: str, count: int, seed: int, device: torch.device) -> list[str]:
    """At most `count` anchor prompts by the model `weights`, a folder or a hub id.

    Raises:
        BadRequest: there is no such model, or it wrote nothing of use.
    """
    asked = question(concept, count)
    key = hashlib.sha256(json.dumps([*_identity(weights), asked, seed]).encode()).hexdigest()
    kept = cache_folder() / "captions" / f"{key}.json"
    with suppress(OSError, ValueError):
        return [str(line) for line in json.loads(kept.read_text(encoding="utf-8"))]
    anchor = anchor_of(concept).casefold() if concept.kind in ("object", "unsafe") else ""
    written = _written(weights, asked, count, seed, device, lambda line: anchor in line.casefold())
    if not written:
        words = f" with '{anchor}' in it" if anchor else ""
        raise BadRequest(f"{weights} wrote no caption{words} in {_TRIES} answers; take another prompt_gen_model.")
    if len(written) == count:
        keep_in_cache(kept, lambda path: path.write_text(json.dumps(written), encoding="utf-8"))
    return written


def _identity(weights: str) -> list[Any]:
    """A hub id; or of a folder where it is, and what tells its configuration and weights from others put there."""
    folder = Path(weights)
    if not folder.is_dir():
        return [weights]
    config = folder / "config.json"
    found = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return [str(folder.resolve()), sha256_of_file(config) if config.is_file() else None, stamps]


def _written(
    weights: str, asked: str, count: int, seed: int, device: torch.device, is_use: Callable[[str], bool]
) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    what = "a causal language model"
    tokenizer = open_part(AutoTokenizer, weights, what)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    network = open_network(AutoModelForCausalLM, weights, what, device, dtype)
    inputs = _inputs(tokenizer, asked).to(device)
    length = inputs["input_ids"].shape[1]
    room = min(_NEW_TOKENS, getattr(network.config, "max_position_embeddings", length + _NEW_TOKENS) - length)
    if room < 1:
        raise BadRequest(f"{weights} reads too few tokens to be asked for captions; take another prompt_gen_model.")
    found: dict[str, None] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(_TRIES):
            answer = network.generate(
                **inputs,
                max_new_tokens=room,
                do_sample=True,
                temperature=_TEMPERATURE,
                top_p=_TOP_P,
                pad_token_id=tokenizer.eos_token_id,
            )
            found |= dict.fromkeys(
                filter(is_use, lines(tokenizer.decode(answer[0, length:], skip_special_tokens=True)))
            )
            if len(found) >= count:
                break
    return list(found)[:count]


def _inputs(tokenizer: Any, asked: str) -> Any:
    """The question as the model wants it: as a user's turn where it was trained on such."""
    if not tokenizer.chat_template:
        return tokenizer(f"{asked}\n", return_tensors="pt")
    turns = [{"role": "user", "content": asked}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def lines(answer: str) -> list[str]:
    """The lines of an answer without numbers, bullets and quotation marks."""
    stripped = (_NUMBER.sub("", line).strip().strip('"').strip() for line in answer.splitlines())
    return [line for line in stripped if line]
