"""Item 4: rows that do not fit their header, in every reader of tables."""

from pathlib import Path

import pytest

from efface.attacks.concept_pairs import read_pairs
from efface.errors import BadFile
from efface.generation import Job, read_prompts
from efface.generation.dataset import read_concepts
from efface.generation.prompts import read_prompt_file
from efface.methods.trained.ablate.prompts import read_anchor_prompts
from efface.request.preserve_file import read_preserved

HEAD = "case_number,prompt,evaluation_seed,evaluation_guidance\n"


def write(folder: Path, text: str, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("case_number,prompt\n0,a red cat, on a mat\n", 2),
        ("prompt,seed\na group of, 3, cats,41\n", 2),
        (HEAD + "0,a cat,3,7.5\n1,a dog,4\n", 3),  # a truncated last row
        (HEAD + "0,a cat,3,7.5\n1,a d", 3),
        (HEAD + "0,a cat,3,7.5\n\n1,a dog,4,7.5,9\n", 4),
        (HEAD + '0,"a cat\non a mat",3,7.5\n1,a dog\n', 4),  # the line, not the number of the row
        ("prompt\na red cat, on a mat\n", 2),
        (HEAD.replace(",", ";") + "0;a cat; a dog;3;7.5\n", 2),
    ],
)
def test_a_row_that_does_not_fit_its_header(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(BadFile, match=rf"p.csv, line {line}: \d fields?, but the header has \d"):
        read_prompts(write(tmp_path, text))


def test_tabs_too(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt\tseed\na red cat, on a mat\t3\na dog\ton grass\t4\n", "p.tsv")
    with pytest.raises(BadFile, match=r"line 3: 3 fields, but the header has 2.*a tab in double quotes"):
        read_prompts(path)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + '0,"a cat,3,7.5\n1,a dog,4,7.5\n',
        HEAD + '0,"a cat,3,7.5\n1,"a dog",4,7.5\n',
        'prompt\n"a cat\na dog\n',
    ],
)
def test_a_quote_that_is_not_closed(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadFile, match=r"p\.csv, line [23]: "):
        read_prompts(write(tmp_path, text))


@pytest.mark.parametrize("reader", [read_concepts, read_preserved, read_anchor_prompts, read_pairs])
@pytest.mark.parametrize("row", ["a, b, c", '"a'])
def test_every_reader_of_tables(tmp_path: Path, reader: object, row: str) -> None:
    columns = "with,without" if reader is read_pairs else "concept,prompt"
    path = write(tmp_path, f"{columns}\na cat,a\n{row}\n")
    assert callable(reader)
    with pytest.raises(BadFile, match="line 3: "):
        reader(path)


def test_rows_without_a_prompt_are_counted(tmp_path: Path) -> None:
    file = read_prompt_file(write(tmp_path, HEAD + "0,a cat,3,7.5\n1,,4,7.5\n2,  ,5,7.5\n\n"))
    assert [job.prompt for job in file.jobs] == ["a cat"]
    assert file.skipped == 2
    assert "rows without a prompt, left out: 2" in str(file)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_header_s(tmp_path: Path, delimiter: str) -> None:
    rows = (("case_number", "prompt", "evaluation_seed"), ("0", "a cat on a mat", "3"))
    text = "".join(delimiter.join(row) + "\n" for row in rows)
    assert read_prompts(write(tmp_path, text)) == [Job("a cat on a mat", 3, case_number=0)]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="two columns 'prompt'"):
        read_prompts(write(tmp_path, "prompt,seed,Prompt\na cat,3,a dog\n"))
