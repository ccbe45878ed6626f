"""Readers of texts: requests, settings, prompts, tables and lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import efface
from efface.api.train_judge import _names as read_names  # pyright: ignore[reportPrivateUsage]
from efface.attacks.concept_pairs import read_pairs
from efface.cli.options import scalar_options
from efface.errors import BadInput
from efface.generation.classes import read_classes
from efface.generation.dataset import read_concepts
from efface.generation.prompts import read_prompt_file
from efface.judges.style import _artists as read_artists  # pyright: ignore[reportPrivateUsage]
from efface.methods.trained.ablate.prompts import read_anchor_prompts
from efface.models.architecture import check_architecture
from efface.protocols.ablation_sets import _published as read_sets  # pyright: ignore[reportPrivateUsage]
from efface.protocols.evaluation_results import rates_of_models, read_results
from efface.protocols.events import read_events
from efface.request.mu import MuRun
from efface.request.preserve_file import read_preserved
from efface.request.record import Concept
from fuzzing.efface_files import emoji
from fuzzing.reader import Reader, written
from fuzzing.text_mutations import damaged, json_file, json_lines, table, yaml_file

_REQUEST = """concepts:
- name: cat
  guide: dog
  aliases: [kitten]
- horse
preserve: [house, a car]
method: uce
options: {lamb: 0.5, variant: token}
"""
_MU = "template: object\ntemplate_name: cat\nnegative_guidance: 1.0\nlr: 0.1\ndevices: '0,1'\nckpt_path: a.ckpt\n"
_ARCHITECTURE = """model:
  params:
    timesteps: 1000
    unet_config: {params: {in_channels: 4, context_dim: 256}}
"""
_SETTINGS = ("lamb=0.5\nvariant=token\n", "a=1e-3\nb=x\n")
_CSV = 'case_number,prompt,evaluation_seed,concept,evaluation_guidance\n0,a cat,3,cat,7.5\n1,"a dog, red",4,dog,7\n'
_PLAIN = "a cat\na dog on a mat\n"
_JSON = ('["a cat", "a dog"]', '[{"prompt": "a cat", "seed": 3}]', '{"prompt": ["a"], "seed": [1]}')
_LINES = '{"prompt": "a cat", "seed": 3}\n{"prompt": "b", "seed": 4}\n'
_RESULTS = """image_id,model_for_the_concept,checking_for_the_concept,prompt_type,model_response,row_id
a-0-0123456789.png,cat,cat,direct,no,0
b-0-0123456789.png,cat,dog,direct,yes,1
"""
_CLASSES = "class_idx,classidx,class,prompt,case_number\n0,0,cat,a cat,0\n1,1,dog,a dog,1\n"
_SETS = json.dumps({"object": {"cat": {"target": "cat", "anchor": "animal", "hard_negatives": ["dog"]}}})


def _read_request(path: Path) -> object:
    return efface.Request.from_yaml(path).model_dump()


def _read_training(path: Path) -> object:
    return MuRun.from_yaml(path)


def _read_architecture(path: Path) -> None:
    check_architecture(emoji(), path)


def _read_settings(path: Path) -> object:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return efface.Request.make("cat", options=scalar_options(text.rstrip("\n").split("\n"))).model_dump()


def _read_prompts(path: Path) -> object:
    readers: tuple[Callable[[Path], object], ...] = (read_concepts, read_preserved, read_anchor_prompts, read_artists)
    for read in readers:
        with suppress(BadInput):
            read(path)
    return str(read_prompt_file(path))


def _read_classes(path: Path) -> object:
    return str(read_classes(path)), read_names(path)


def _read_results(path: Path) -> object:
    return str(rates_of_models(read_results(path)))


def _read_sets(path: Path) -> object:
    folder = path.parent / "eval_prompts"
    folder.mkdir(exist_ok=True)
    (folder / "animal_eval.txt").write_text("an animal\n")
    return str(read_sets(path.parent, Concept(name="cat")))


def _read_events(path: Path) -> object:
    return read_events(str(path))


_TABLE = (damaged, table, table)
READERS = (
    Reader("requests", written("r.yaml", _REQUEST), (yaml_file, yaml_file, damaged), _read_request),
    Reader("training requests of mu", written("r.yaml", _MU), (yaml_file, yaml_file, damaged), _read_training),
    Reader("architectures", written("v1.yaml", _ARCHITECTURE), (yaml_file,), _read_architecture, share=0.5),
    Reader("settings of the command line", written("s.txt", *_SETTINGS), (damaged, table), _read_settings),
    Reader("prompts (CSV)", written("p.csv", _CSV), _TABLE, _read_prompts),
    Reader("prompts (TSV)", written("p.tsv", _CSV.replace(",", "\t")), _TABLE, _read_prompts),
    Reader("prompts (text)", written("p.txt", _PLAIN, _CSV), _TABLE, _read_prompts),
    Reader("prompts (JSON)", written("p.json", *_JSON), (damaged, json_file), _read_prompts),
    Reader("prompts (JSON lines)", written("p.jsonl", _LINES), (damaged, json_lines), _read_prompts),
    Reader("classes", written("c.csv", _CLASSES), _TABLE, _read_classes),
    Reader("events", written("e.txt", "erase cat, dog\nrestore cat\n"), _TABLE, _read_events, share=0.5),
    Reader("pairs of prompts", written("c.csv", "with,without\na cat,a dog\n"), _TABLE, read_pairs),
    Reader("results of evaluations", written("evaluation_results.csv", _RESULTS), _TABLE, _read_results),
    Reader("sets of prompts", written("eval.json", _SETS), (damaged, json_file), _read_sets),
)
