"""A hundred thousand prompts to preserve, from the command line: in little memory, and composed in little time."""

import resource
import time
from itertools import islice, product
from pathlib import Path

from efface import Eraser, compose

WORDS = "a an of in the dog horse house car boat bird parrot apple star blue red art image".split()  # noqa: SIM905
COUNT = 100_000


def test_a_hundred_thousand_prompts(efface, tiny_sd):
    prompts = [" ".join(words) for words in islice(product(WORDS, repeat=4), COUNT)]
    Path("few.txt").write_text("\n".join([*prompts[:20], "photo"]))
    Path("many.txt").write_text("\n".join(prompts))
    command = ("--to", "golf", "--model", tiny_sd, "--preserve-file")
    assert efface("erase", "cake", *command, "few.txt", "-o", "few.safetensors").code == 0  # loads what is to be loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert efface("erase", "cat", *command, "many.txt", "-o", "many.safetensors").code == 0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 100e6  # all tokens of all prompts, 12 of 32 numbers, would be 154 MB in float32
    many, few = Eraser.load("many.safetensors"), Eraser.load("few.safetensors")
    assert many.request.preserve == tuple(prompts)

    started = time.process_time()
    both = compose(many, few)
    assert time.process_time() - started < 5
    assert both.request.preserve == (*prompts, "photo")
    assert not both.parts
