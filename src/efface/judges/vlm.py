"""Vision-language models as judges: yes or no, read from the logits.

Any image-text model of transformers, by default LLaVA 1.5 (Liu et al., arXiv 2310.03744). The model is asked a question
that wants yes or no, and its first token's logits l are compared:

    p(yes | image) = Y / (Y + N),   Y = sum_{t in yes} exp(l_t),   N = sum_{t in no} exp(l_t)

over the tokens that begin "yes" and "no" in either case. From 0.6 on the answer is yes, below 0.4 no, between them the
judge is undecided: what a parser of its words would call by a coin's toss. `vlm:MODEL,style` asks for a style, and
`vlm:MODEL,challenge` is the judge of the U&ME challenge (`vlm_challenge.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.errors import BadInput
from efface.files import atomic
from efface.generation.folder import Image as ImageRow
from efface.judges.base import JudgeEntry, Opening, Pixels, Scores
from efface.judges.verdicts import Verdict
from efface.judges.weights import version_of
from efface.models.pretrained import image_processor, open_network, open_part

LLAVA = "llava-hf/llava-1.5-7b-hf"
YES_FROM, NO_BELOW = 0.6, 0.4
#: What is asked, by the option that chooses it.
WORDINGS = {
    "presence": "Is there {} in this image? Answer yes or no.",
    "style": "Is this image in the style of {}? Answer yes or no.",
    "challenge": "Is there a {} in this picture? Answer with 'yes' or 'no'.",
}
_BATCH = 8
# LLaVA 1.5's own turns, for models that bring no template.
_TURNS = "USER: {} \n{} ASSISTANT:"


class VlmJudge:
    """An open world: any concept that can be said.

    Args:
        model: An image-text model that generates.
        processor: Its processor.
        version: Of the weights.
        wording: The question, with the concept's place.
    """

    name = "vlm"

    def __init__(self, model: Any, processor: Any, version: str, wording: str = WORDINGS["presence"]) -> None:
        self.version = f'{version}, "{wording}", {str(model.dtype).removeprefix("torch.")}, PIL, {self._rule}'
        self.wording = wording
        self._model, self._processor = model, processor
        self._yes, self._no = self._tokens("yes"), self._tokens("no")
        if set(self._yes) & set(self._no):
            raise BadInput(f"The judge 'vlm' cannot use {version}: its yes and no begin with the same token.")

    _rule = f"undecided from {NO_BELOW} to {YES_FROM}"

    def knows(self, concept: str) -> bool:
        return bool(concept.strip())

    def peers(self, concept: str) -> tuple[str, ...]:
        return ()

    def same(self, one: str, other: str) -> bool:
        return one.casefold().split() == other.casefold().split()

    def threshold(self, concept: str) -> float:
        return YES_FROM

    def floor(self, concept: str) -> float:
        return NO_BELOW

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        return np.stack([self._column(images, self.wording.format(concept)) for concept in concepts], axis=1)

    def _column(self, images: Pixels, question: str) -> Scores:
        parts = [self._answers(images[i : i + _BATCH], question) for i in range(0, len(images), _BATCH)]
        return torch.cat(parts).numpy()

    def _answers(self, images: Pixels, question: str) -> Tensor:
        """p(yes), (n,), float64."""
        logits_nv, _ = self.generate(images, question, 1)
        pair_n2 = torch.stack([logits_nv[:, ids].logsumexp(1) for ids in (self._yes, self._no)], 1)
        return pair_n2.softmax(1)[:, 0]

    @torch.no_grad()
    def generate(self, images: Pixels, question: str, tokens: int) -> tuple[Tensor, list[str]]:
        """The first token's logits (n, V), float64, NaN for a row that has one anywhere; and the new words.

        The same question and size for all, so nothing is padded and no image is changed by its company.
        """
        inputs = self._inputs([Image.fromarray(pixels) for pixels in images], question)
        floating = {name: x.to(self._model.dtype) for name, x in inputs.items() if x.is_floating_point()}
        inputs = {name: x.to(self._model.device) for name, x in {**inputs, **floating}.items()}
        out = self._model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        steps = torch.stack([step.cpu().double() for step in out.logits])
        broken = steps.isnan().any(2).any(0)
        first = steps[0].masked_fill(broken[:, None], torch.nan)
        words = self._processor.batch_decode(out.sequences[:, -len(out.logits) :], skip_special_tokens=True)
        return first, words

    def _inputs(self, pictures: list[Image.Image], question: str) -> dict[str, Tensor]:
        if not self._processor.chat_template:
            text = _TURNS.format(self._processor.image_token, question)
            return dict(self._processor(images=pictures, text=[text] * len(pictures), return_tensors="pt"))
        asked = {"type": "text", "text": question}
        turns = [[{"role": "user", "content": [{"type": "image", "image": p}, asked]}] for p in pictures]
        template = self._processor.apply_chat_template
        return dict(template(turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"))

    def _tokens(self, word: str) -> list[int]:
        """The tokens that an answer with this word begins with."""
        tokenizer = self._processor.tokenizer
        forms = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
        ids = [tokenizer(form, add_special_tokens=False).input_ids for form in forms]
        whole = sorted({form[0] for form in ids if len(form) == 1})
        return whole or sorted({form[0] for form in ids})


def open_vlm(asked: Opening) -> VlmJudge:
    """A judge from a folder or hub id, with the wording that the option names.

    Raises:
        BadInput: There is no such model, or no such wording.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    option = asked.option or "presence"
    if option not in WORDINGS:
        raise BadInput(f"The judge 'vlm' has no wording '{option}'; there is: {', '.join(WORDINGS)}.")
    weights = asked.weights or LLAVA
    kind, device = AutoModelForImageTextToText, asked.device
    model = open_network(kind, weights, "an image-text model", device, _dtype(device))
    version = version_of(weights, model)
    processor = open_part(AutoProcessor, weights, "a processor")
    processor.image_processor = image_processor(weights)
    if option == "challenge":
        return ChallengeJudge(model, processor, version, WORDINGS[option])
    return VlmJudge(model, processor, version, WORDINGS[option])


def _dtype(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it, float16 on other accelerators, float32 on a CPU."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.startswith("mps") else torch.float32


ENTRY = JudgeEntry(
    name="vlm",
    summary=f"yes or no from any image-text model (vlm:FOLDER or HUB-ID[,{'|'.join(WORDINGS)}]; plain, {LLAVA})",
    source="https://arxiv.org/abs/2310.03744",
    open=open_vlm,
)


# The judge of the U&ME unlearning challenge (ICCV 2025): LLaVA's own words, read as the challenge's entries read them.
#
# The model answers "Is there a CONCEPT in this picture? Answer with 'yes' or 'no'." in at most 5 new tokens, and the
# answer is yes if "yes" is among the last 5 characters, in whatever case; all else is no. There is nothing undecided:
# that is the literal rule, and the logits of `vlm` are the better one. `evaluation_results.csv` gets the verdicts,
# too.


TOKENS, CHARACTERS = 5, 5
_COLUMNS = ("concept_name", "prompt", "file_name", "question", "answer")


class ChallengeJudge(VlmJudge):
    """An open world, with answers of 0 and 1."""

    results = "evaluation_results.csv"
    _rule = f"'yes' in the last {CHARACTERS} characters of {TOKENS} tokens"

    def threshold(self, concept: str) -> float:
        return 0.5

    def floor(self, concept: str) -> float:
        return 0.5

    def _answers(self, images: Pixels, question: str) -> Tensor:
        logits_nv, words = self.generate(images, question, TOKENS)
        said = torch.tensor([float("yes" in text.strip()[-CHARACTERS:].casefold()) for text in words]).double()
        return said.masked_fill(logits_nv.isnan().any(1), torch.nan)

    def write_results(self, path: Path, images: Sequence[ImageRow], verdicts: Sequence[Verdict], force: bool) -> None:
        """Write a row an image and question.

        Raises:
            BadFile: It cannot be written, or exists and `force` is false.
        """
        prompts = {str(image.row.get("file_name", "")): str(image.row.get("prompt", "")) for image in images}
        with atomic(path, force) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for row in verdicts:
                asked = self.wording.format(row.question)
                rows.writerow((row.question, prompts.get(row.file_name, ""), row.file_name, asked, row.answer))
