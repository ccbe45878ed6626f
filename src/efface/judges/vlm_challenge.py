"""The judge of the U&ME unlearning challenge (ICCV 2025): LLaVA's own words, read as the challenge's entries read them.

The model answers "Is there a CONCEPT in this picture? Answer with 'yes' or 'no'." in at most 5 new tokens, and the
answer is yes if "yes" is among the last 5 characters, in whatever case; all else is no. There is nothing undecided:
that is the literal rule, and the logits of `vlm` are the better one. `evaluation_results.csv` gets the verdicts, too.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from efface.files import atomic
from efface.generate.folder import Image
from efface.judges.base import Pixels
from efface.judges.verdicts import Verdict
from efface.judges.vlm import VlmJudge

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

    def write_results(self, path: Path, images: Sequence[Image], verdicts: Sequence[Verdict], force: bool) -> None:
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
