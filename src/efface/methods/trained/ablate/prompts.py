"""Prompts of concept ablation: the anchor prompts, and the prompts of the concept that are made from them.

Anchor prompts come from a file, from a language model, or, by default, from the templates here. The concept's prompt is
made from the anchor's:

    object       the anchor's words are replaced by the concept's: "a photo of a cat", "a photo of a grumpy cat"
    style        the style is added in one of three ways, its name once or twice, as in the CompVis code; if the
                 prompt contains the guide, it is replaced
    unsafe       the theme is added in one of three ways, as in the diffusers code
    memorised    the image's caption, or another prompt that produces it, independent of the anchor

The published anchor prompts are captions of LAION for styles, and by ChatGPT or GPT-3.5 for the others. The published
codes query GPT-3.5 or ChatGPT over the network, later Llama-3-8B-Instruct. Here, `generated_captions` runs any causal
language model of transformers, given by folder or hub id. It samples at the temperature of the reference for Llama, and
repeats the question until there are enough prompts, at most ten times. The prompts are cached, so that a resumed
training continues with the same prompts.
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

from efface.errors import BadFile, BadRequest
from efface.files import cache_folder, from_cache, keep_in_cache, sha256_of_file
from efface.json_writing import json_text
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.trained.ablate.augment import random_choice
from efface.models.pretrained import open_network, open_part
from efface.request.record import Concept, Kind
from efface.tables import read_table

#: Prompts of an object or a person.
OBJECT = (
    "{}", "a {}", "the {}", "one {}", "a photo of a {}", "a picture of a {}", "an image of a {}", "a painting of a {}",
    "a drawing of a {}", "a portrait of a {}", "a sketch of a {}", "an illustration of a {}", "a photo of the {}",
    "a good picture of a {}", "a colourful picture of a {}", "a simple drawing of a {}", "a close view of a {}",
    "a {} from the side", "a {} in the middle", "a {} on a plain background", "a small {}", "a large {}",
    "photo of {}", "image of {}", "picture of {}",
)  # fmt: skip
#: Paraphrases of a memorised image's caption.
PARAPHRASE = (
    "a picture of {}", "an image that shows {}", "something like {}", "another picture of {}", "a new drawing of {}",
    "{}, seen differently", "a different view of {}", "{} by someone else", "a scene with {}", "a photo about {}",
    "an old painting about {}", "a simple sketch of {}",
)  # fmt: skip
#: The default anchors.
ANCHORS: dict[Kind, str] = {"style": "painting", "unsafe": "person"}


def anchor_of(concept: Concept) -> str:
    """The anchor of a concept: its guide, or else the default anchor of its kind.

    Raises:
        BadRequest: There is no guide, and the kind has no default anchor.
    """
    guide = (concept.guide or "").strip() or ANCHORS.get(concept.kind, "")
    if not guide and concept.kind == "object":
        raise BadRequest(f"ablate needs a guide that replaces '{concept.name}'; give one, e.g. --to dog.")
    return guide


def templates(concept: Concept) -> list[str]:
    """The default anchor prompts of a concept."""
    guide = anchor_of(concept)
    if concept.kind == "style":
        return [f"{scene} in {guide} style" if concept.guide else f"a painting of {scene}" for scene in EVERYDAY]
    words = PARAPHRASE if concept.kind == "memorised" else OBJECT
    return [template.format(concept.name if concept.kind == "memorised" else guide) for template in words]


def read_anchor_prompts(path: Path) -> list[str]:
    """Read the lines of a text file, or the column `prompt` of a CSV.

    Raises:
        BadFile: The file cannot be read, has no such column, or has no prompt.
    """
    table = read_table(path, "anchor prompts", "prompt")
    if "prompt" not in table.columns:
        names = ", ".join(filter(None, table.columns)) or "none"
        raise BadFile(f"{path} has no column 'prompt' (columns: {names}); rename one.")
    prompts = table.texts("prompt")
    if not prompts:
        raise BadFile(f"{path} has no anchor prompt; write one per line, or a CSV with a column 'prompt'.")
    return prompts


def usable(captions: list[str], concept: Concept, source: str) -> list[str]:
    """The captions from which a prompt of the concept can be made.

    Args:
        captions: The anchor prompts.
        concept: The concept.
        source: The file or folder of the captions, for messages.

    Raises:
        BadRequest: No caption contains the anchor of an object.
    """
    if concept.kind != "object":
        return captions
    anchor = anchor_of(concept)
    with_anchor = [caption for caption in captions if anchor.casefold() in caption.casefold()]
    if not with_anchor:
        raise BadRequest(f"No anchor prompt of {source} contains '{anchor}', which '{concept.name}' would replace.")
    return with_anchor


def target_prompt(caption: str, target: str, concept: Concept, generator: torch.Generator) -> str:
    """Convert an anchor prompt to a prompt of the ablated concept.

    Args:
        caption: The anchor prompt.
        target: The concept's name, or another prompt for a memorised image.
        concept: The concept.
        generator: The source of randomness.
    """
    anchor = anchor_of(concept)
    if concept.kind == "memorised":
        return target
    if concept.kind == "unsafe":
        return (f"{target}, {caption}", f"in {target} style, {caption}", f"{caption}, {target}")[
            random_choice(3, generator)
        ]
    if concept.kind == "object" or (concept.guide and anchor.casefold() in caption.casefold()):
        return re.sub(re.escape(anchor), lambda _: target, caption, flags=re.IGNORECASE)
    form = random_choice(3, generator)
    words = f"{target} {target}" if random_choice(2, generator) else target
    return (
        f"{caption}, in the style of {words}",
        f"{words} inspired painting, {caption}",
        f"in {words}'s style, {caption}",
    )[form]


_TRIES, _NEW_TOKENS = 10, 2048
_TEMPERATURE, _TOP_P = 0.6, 0.9
_WEIGHTS = (".safetensors", ".bin")
# The numbers and bullets that models write before a line of a list.
_NUMBER = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*")


def question(concept: Concept, count: int) -> str:
    """The question to the language model."""
    if concept.kind == "memorised":
        return f"Say this caption in {count} other ways that keep its meaning, one a line: {concept.name}"
    anchor = anchor_of(concept)
    if concept.kind == "style":
        return f'Write {count} short captions of many sorts of pictures that are each a "{anchor}", one a line.'
    return (
        f"Write {count} short captions of many sorts of pictures that show a {anchor}, one a line. Say only what can "
        f'be seen. Each has the words "{anchor}" in it.'
    )


def generated_captions(concept: Concept, weights: str, count: int, seed: int, device: torch.device) -> list[str]:
    """Generate anchor prompts by a causal language model, or read them from the cache.

    Args:
        concept: The concept.
        weights: The folder or hub id of the model.
        count: The largest number of prompts.
        seed: The seed of the sampling.
        device: The device of the model.

    Raises:
        BadRequest: The model wrote no usable prompt, or its context is too short.
    """
    asked = question(concept, count)
    key = hashlib.sha256(json.dumps([*_identity(weights), asked, seed]).encode()).hexdigest()
    cached = cache_folder() / "captions" / f"{key}.json"
    if from_cache(cached) is not None:
        with suppress(OSError, ValueError):
            return [str(line) for line in json.loads(cached.read_text(encoding="utf-8"))]
    anchor = anchor_of(concept).casefold() if concept.kind in ("object", "unsafe") else ""
    written = _written(weights, asked, count, seed, device, lambda line: anchor in line.casefold())
    if not written:
        words = f" with '{anchor}' in it" if anchor else ""
        raise BadRequest(f"{weights} wrote no caption{words} in {_TRIES} answers; choose another prompt_gen_model.")
    if len(written) == count:
        keep_in_cache(cached, lambda path: path.write_text(json_text(written, ascii_only=True), encoding="utf-8"))
    return written


def _identity(weights: str) -> list[Any]:
    """The key of a model for the cache: its hub id, or its folder with the versions of configuration and weights."""
    folder = Path(weights)
    if not folder.is_dir():
        return [weights]
    config = folder / "config.json"
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHTS]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
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
        raise BadRequest(f"The context of {weights} is too short for the question; choose another prompt_gen_model.")
    captions: dict[str, None] = {}
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
            captions |= dict.fromkeys(
                filter(is_use, lines(tokenizer.decode(answer[0, length:], skip_special_tokens=True)))
            )
            if len(captions) >= count:
                break
    return list(captions)[:count]


def _inputs(tokenizer: Any, asked: str) -> Any:
    """The tokens of the question, as a user's turn if the model has a chat template."""
    if not tokenizer.chat_template:
        return tokenizer(f"{asked}\n", return_tensors="pt")
    turns = [{"role": "user", "content": asked}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def lines(answer: str) -> list[str]:
    """The lines of an answer without numbers, bullets and quotation marks."""
    stripped = (_NUMBER.sub("", line).strip().strip('"').strip() for line in answer.splitlines())
    return [line for line in stripped if line]
