"""Item 5: files of prompts in their actual format, and the column of concepts."""

import json
import re
from pathlib import Path

import pytest

from command_line import Efface
from efface.errors import BadFile
from efface.generation import Job, read_prompts
from efface.generation.dataset import read_concepts
from efface.generation.prompts import read_prompt_file
from efface.judges import open_judge
from efface.models.emoji import catalogue
from efface.protocols.probes.file import probes_of_file
from efface.protocols.world import grid_of
from efface.request.names import name_key
from efface.request.preserve_file import read_preserved
from efface.request.record import Request

CATS = [Job("a cat, sitting", 3, concept="cat"), Job("a dog", 4, concept="dog")]
RECORDS = [
    {"prompt": "a cat, sitting", "evaluation_seed": 3, "concept": "cat"},
    {"prompt": "a dog", "evaluation_seed": 4, "concept": "dog"},
]
LINES = "\n".join(map(json.dumps, RECORDS)) + "\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.tsv", "prompt\tevaluation_seed\tconcept\na cat, sitting\t3\tcat\na dog\t4\tdog\n"),
        ("p.json", json.dumps(RECORDS, indent=1)),
        ("p.jsonl", LINES),
        ("p.ndjson", LINES),
        ("p.txt", LINES),
        ("p.txt", json.dumps(RECORDS)),
        ("p.txt", 'prompt,evaluation_seed,concept\n"a cat, sitting",3,cat\na dog,4,dog\n'),
        ("p.csv", "prompt\tevaluation_seed\tconcept\na cat, sitting\t3\tcat\na dog\t4\tdog\n"),
        ("p.json", json.dumps({key: [row[key] for row in RECORDS] for key in RECORDS[0]})),
    ],
)
def test_one_content_in_any_format(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(write(tmp_path, name, text)) == CATS


@pytest.mark.parametrize("name", ["p.json", "p.txt"])
@pytest.mark.parametrize(
    "text", ['["a cat", "a dog"]', '[\n  "a cat",\n  "a dog"\n]\n', '{"prompts": ["a cat", "a dog"]}']
)
def test_a_list_of_texts(tmp_path: Path, name: str, text: str) -> None:
    assert [job.prompt for job in read_prompts(write(tmp_path, name, text))] == ["a cat", "a dog"]


def test_lines_that_only_look_like_other_formats(tmp_path: Path) -> None:
    lines = [
        "<toy> on a table",
        "[oil painting] of a cat",
        "{cat|dog} on a mat",
        "- not a list",
        "a cat, a dog; a prompt",
    ]
    path = write(tmp_path, "p.txt", "\n".join(lines))
    assert [job.prompt for job in read_prompts(path)] == lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        ("p.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        ("p.txt", "<!DOCTYPE html>\n<html>\n<body>Not found</body>\n</html>\n"),
        ("p.txt", '<?xml version="1.0"?>\n<prompts><prompt>a cat</prompt></prompts>\n'),
        ("p.txt", "<prompts>\n<prompt>a cat</prompt>\n</prompts>\n"),
        ("p.txt", "prompts:\n- a cat\n- a dog\n"),
        ("p.txt", "- a cat\n- a dog\n"),
        ("p.txt", '["a cat", "a dog"'),
        ("p.txt", "a cat\0a dog\n"),
        ("p.yaml", "- a cat\n"),
        ("p.html", "a cat\n"),
        ("p.py", "a cat\n"),
        ("p.json", '"a cat"'),
        ("p.json", '{"a": 1}'),
        ("p.json", "[1, 2]"),
        ("p.json", '[{"prompt": ["a cat"]}]'),
        ("p.json", '[{"prompt": "a cat", "seed": 1}, {"prompt": "a dog"}]'),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": "a d'),
        ("p.json", "[" * 100_000),
    ],
)
def test_other_formats_are_rejected(tmp_path: Path, name: str, text: str) -> None:
    readers = (read_prompts,) if "seed" in text else (read_prompts, read_preserved)
    for reader in readers:
        with pytest.raises(
            BadFile,
            match=r"Cannot read|not JSON|nested|surrogate|digits|neither|not a single|not in all records|has no",
        ):
            reader(write(tmp_path, name, text))


@pytest.mark.parametrize("column", ["label_str", "class", "profession", "type", "object_name", "animal", "Klasse"])
def test_the_column_of_concepts(tmp_path: Path, column: str) -> None:
    rows = ("0,a photo of a cat,7,cat", "1,a photo of a dog,8,dog", "2,the dog runs,9,dog")
    file = read_prompt_file(
        write(tmp_path, "p.csv", "\n".join((f"case_number,prompt,evaluation_seed,{column}", *rows)))
    )
    assert [job.concept for job in file.jobs] == ["cat", "dog", "dog"]
    assert f"concept from {column.lower()}" in str(file)
    metrics = [(probe.metric, probe.concept) for probe in probes_of_file(file, Request.make("cat"), 1)]
    assert sorted(set(metrics)) == [("forget", "cat"), ("retain", "dog")]


def test_several_columns_may_have_the_concepts(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "prompt,animal,place\na cat on grass,cat,grass\na dog on sand,dog,sand\n")
    with pytest.raises(BadFile, match="animal, place; choose with --concept-column animal"):
        read_prompts(path)
    assert [job.concept for job in read_prompts(path, concept_column="Place")] == ["grass", "sand"]
    assert [job.concept for job in read_prompts(path, concept_column="none")] == ["", ""]
    with pytest.raises(BadFile, match="no column 'thing' of concepts"):
        read_prompts(path, concept_column="thing")


def test_a_column_that_divides_the_prompts_is_not_ignored(tmp_path: Path) -> None:
    rows = "prompt,group\nit says meow,cat\nit purrs,cat\nit barks,dog\nit fetches,dog\n"
    path = write(tmp_path, "p.csv", rows)
    with pytest.raises(BadFile, match="'group' divides the prompts; pass --concept-column group"):
        probes_of_file(read_prompt_file(path), Request.make("cat"), 4)
    chosen = probes_of_file(read_prompt_file(path, concept_column="group"), Request.make("cat"), 2)
    assert {(probe.metric, probe.job.prompt) for probe in chosen if probe.metric == "forget"} == {
        ("forget", "it says meow"),
        ("forget", "it purrs"),
    }
    alone = probes_of_file(read_prompt_file(path, concept_column="none"), Request.make("cat"), 4)
    assert {probe.metric for probe in alone} == {"forget"}


def test_numbers_are_no_concepts(tmp_path: Path) -> None:
    file = read_prompt_file(write(tmp_path, "p.csv", "prompt,class,label_str\na cat,281,cat\na dog,207,dog\n"))
    assert [job.concept for job in file.jobs] == ["cat", "dog"]


def test_some_rows_without_a_concept(tmp_path: Path) -> None:
    file = read_prompt_file(write(tmp_path, "p.csv", "prompt,concept\na cat,cat\na dog,\n"))
    with pytest.raises(BadFile, match="'a dog' has no concept"):
        probes_of_file(file, Request.make("cat"), 1)


@pytest.mark.parametrize("name", ["SoccerBall", "soccerBall", "SOCCER_BALL", "a soccer-ball"])
def test_one_name_in_all_spellings(tmp_path: Path, name: str) -> None:
    assert name_key(name) == name_key("soccer ball")
    assert [one.name for one in read_concepts(write(tmp_path, "d.csv", f"label_str\n{name}\n"))] == [name]
    judge = open_judge("emoji", ())
    two = next(thing.name for thing in catalogue().objects if " " in thing.name)
    camel = "".join(word.title() for word in two.split())
    assert judge.knows(camel)
    assert judge.same(camel, two)
    assert grid_of(catalogue()).meaning(camel) == ("object", two)


def test_names_that_differ_stay_different() -> None:
    assert len({name_key(name) for name in ("C", "C++", "C#", "\U0001f431", "\U0001f436", "café")}) == 6
    assert name_key("cafe\u0301") == name_key("caf\u00e9")


def test_case_numbers_are_in_names_and_metadata(tmp_path: Path, efface: Efface) -> None:
    text = "case_number,prompt,evaluation_seed,profession\n17,a cat,3,cat\n18,a cat,3,cat\n19,,3,cat\n"
    ended = efface(
        "generate", "--prompts", write(tmp_path, "p.csv", text), "--steps", 1, "-o", "out", "--file-names", "case"
    )
    assert ended.code == 0, ended
    rows = [json.loads(line) for line in Path("out/metadata.jsonl").read_text().splitlines()]
    assert [row["case_number"] for row in rows] == [17, 18]
    assert [re.findall(r"\d+", row["file_name"])[0] for row in rows] == ["17", "18"]
    assert all((Path("out") / row["file_name"]).exists() for row in rows)
    assert "2 prompts; rows without a prompt, left out: 1" in ended.err
    assert "concept from profession" in ended.err


@pytest.mark.parametrize("line", ["|---|---|", "| :--- | ---: |", "--- | ---"])
def test_a_table_of_markdown_is_no_list_of_prompts(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, "p.txt", f"| prompt | concept |\n{line}\n| a cat | cat |\n")
    with pytest.raises(BadFile, match="it is a table of Markdown"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.txt", "p", "p.list"])
def test_comments_in_plain_text_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "# animals\na cat\n\n#\n  ## more\n#sunset\n#1 dad mug\na dog # and a cat\n")
    file = read_prompt_file(path)
    assert [job.prompt for job in file.jobs] == ["a cat", "#sunset", "#1 dad mug", "a dog # and a cat"]
    assert "4 prompts; lines that are comments, left out: 3" in str(file)
    assert read_preserved(path) == [job.prompt for job in file.jobs]
    with pytest.raises(BadFile, match="has no prompts"):
        read_prompts(write(tmp_path, name, "# nothing\n"))
    with pytest.raises(BadFile, match="bullets"):
        read_prompts(write(tmp_path, name, "# animals\n- a cat\n- a dog\n"))


def test_a_prompt_in_another_format_is_no_comment(tmp_path: Path) -> None:
    for name, text in (("p.csv", "prompt\n# a cat\n"), ("p.json", '["# a cat"]'), ("p.txt", '["# a cat"]')):
        assert [job.prompt for job in read_prompts(write(tmp_path, name, text))] == ["# a cat"]


def test_comments_are_printed(efface: Efface, tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "# animals\nhorse\n")
    ended = efface("erase", "cat", "--preserve-file", path, "-o", "cat.safetensors")
    assert "1 prompts; lines that are comments, left out: 1" in ended.err
