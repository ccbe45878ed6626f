"""A hundred thousand prompts to preserve, from the command line: in little memory, and composed in little time."""

import time
from itertools import islice, product
from pathlib import Path

from efface import Eraser, compose
from support import Processes

WORDS = "a an of in the dog horse house car boat bird parrot apple star blue red art image".split()  # noqa: SIM905
COUNT = 100_000


# In a process of its own, whose peak of memory no other test has raised.
_GROWTH = """
import resource
from pathlib import Path
from efface.cli.run import run

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

command = ("--to", "golf", "--model", {model!r}, "--preserve-file")
assert run(["erase", "cake", *command, {few!r}, "-o", "few.safetensors"]) == 0  # loads what is to be loaded
before = peak()
assert run(["erase", "cat", *command, {many!r}, "-o", "many.safetensors"]) == 0
Path({grown!r}).write_text(str(peak() - before))
"""


def test_a_hundred_thousand_prompts(efface, tiny_sd, processes: Processes):
    prompts = [" ".join(words) for words in islice(product(WORDS, repeat=4), COUNT)]
    Path("few.txt").write_text("\n".join([*prompts[:20], "photo"]))
    Path("many.txt").write_text("\n".join(prompts))
    script = _GROWTH.format(model=str(tiny_sd), few="few.txt", many="many.txt", grown="grown.txt")
    assert processes.wait(processes.script(f"import os\nos.chdir({str(Path.cwd())!r})\n{script}")) == 0
    # All tokens of all prompts, 12 of 32 numbers, would be 154 MB in float32.
    assert float(Path("grown.txt").read_text()) < 100e6
    many, few = Eraser.load("many.safetensors"), Eraser.load("few.safetensors")
    assert many.request.preserve == tuple(prompts)

    started = time.process_time()
    both = compose(many, few)
    assert time.process_time() - started < 5
    assert both.request.preserve == (*prompts, "photo")
    assert not both.parts
