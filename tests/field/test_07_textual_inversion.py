"""Item 7: a word of textual inversion with several vectors is read as all of them, as the pipeline reads it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

import efface
from efface import open_model
from efface.models.text.tokens import words_of


def pipeline(folder: Path, word: str, vectors: int) -> Any:
    kind: Any = StableDiffusionPipeline
    pipe = kind.from_pretrained(folder)
    width = pipe.text_encoder.config.hidden_size
    values = torch.randn(vectors, width, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({word: values}, token=word)
    return pipe


def as_the_pipeline(pipe: Any, prompt: str) -> torch.Tensor:
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0]


@pytest.mark.parametrize(("word", "vectors"), [("<toy>", 3), ("<toy>", 1), ("<my-style>", 2), ("sks", 4)])
@pytest.mark.parametrize("prompt", ["{}", "a red {} and a dog", "{} in {}"])
def test_prompts_are_read_as_the_pipeline_reads_them(tiny_sd: Path, word: str, vectors: int, prompt: str) -> None:
    pipe = pipeline(tiny_sd, word, vectors)
    text = prompt.format(word, word)
    tokens = open_model(pipe).embed([text], truncate=True).tokens
    assert torch.equal(tokens.float(), as_the_pipeline(pipe, text).float())


@pytest.mark.parametrize("vectors", [2, 3])
def test_the_word_is_erased_as_a_whole(tiny_sd: Path, vectors: int) -> None:
    pipe = pipeline(tiny_sd, "<toy>", vectors)
    embedded = open_model(pipe).embed(["<toy>"])
    assert embedded.last.tolist() == [vectors], "the last subject token is the last vector's"
    eraser = efface.erase(pipe, "<toy>", to="dog", preserve=["horse"])
    model = open_model(pipe)
    guide = model.embed(["dog"])
    edit = eraser.edits[0]
    assert isinstance(edit, efface.TextEdit)
    subject, target = embedded.tokens[0, vectors].double(), guide.tokens[0, int(guide.last[0])].double()
    edited = subject + edit.left.double() @ (edit.right.double().T @ subject)
    assert (edited - target).norm() < 0.1 * (subject - target).norm()


@pytest.mark.parametrize("prompt", ["a red <toy> and a", "<toy>", "a", ""])
def test_attacks_count_all_vectors(tiny_sd: Path, prompt: str) -> None:
    pipe = pipeline(tiny_sd, "<toy>", 3)
    ids = pipe.tokenizer(pipe.maybe_convert_prompt(prompt, pipe.tokenizer))["input_ids"]
    assert words_of(pipe.tokenizer, prompt) == len(ids) - 2
