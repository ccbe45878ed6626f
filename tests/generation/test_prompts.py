"""The published prompt files load as they are, and bad files say what is wrong with them."""

from pathlib import Path

import pytest

from efface.errors import BadFile, BadInput
from efface.generation import Job, Sampling, jobs_for, read_prompts, repeated


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "a cat\n\n  a dog \na cat\n")
    assert read_prompts(path, seed=5) == [Job("a cat", 5), Job("a dog", 5), Job("a cat", 6)]


def test_uce_and_esd(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.csv",
        'case_number,prompt,evaluation_seed,evaluation_guidance,artist\n0,"Sky, by X",12,7,X\n1,b,13.0,7.5,X\n',
    )
    assert read_prompts(path) == [
        Job("Sky, by X", 12, 7, concept="X", case_number=0),
        Job("b", 13, 7.5, concept="X", case_number=1),
    ]


def test_i2p_with_byte_order_mark(tmp_path: Path) -> None:
    text = "prompt,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height\nx,2190142181,7.0,512,768\n"
    assert read_prompts(write(tmp_path / "p.csv", text, "utf-8-sig")) == [
        Job("x", 2190142181, 7.0, width=512, height=768)
    ]


def test_challenge(tmp_path: Path) -> None:
    header = "concept_name,direct_prompt_1,direct_prompt_2,indirect_prompt_1,adversarial_prompt"
    path = write(
        tmp_path / "p.csv", f"{header}\nGolf Ball,a golf ball,golf ball on grass,small dimpled sphere,g0lf b@ll\n"
    )
    jobs = read_prompts(path)
    assert [job.prompt for job in jobs] == ["a golf ball", "golf ball on grass", "small dimpled sphere", "g0lf b@ll"]
    assert {job.concept for job in jobs} == {"Golf Ball"}


def test_concept_and_prompt(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path / "p.csv", "concept,prompt\ncat,a cat\n")) == [Job("a cat", concept="cat")]


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\f", "\v", "\x1c"])
def test_what_only_unicode_takes_for_the_end_of_a_line_ends_no_row(tmp_path: Path, sign: str) -> None:
    prompt = f"a cat{sign}on a mat"
    assert read_prompts(write(tmp_path / "p.csv", f"prompt,seed\n{prompt},7\na dog,8\n")) == [
        Job(prompt, 7),
        Job("a dog", 8),
    ]
    assert read_prompts(write(tmp_path / "p.txt", f"{prompt}\na dog\n")) == [Job(prompt), Job("a dog")]


def test_a_quoted_field_may_go_on_in_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b'prompt,seed\r\n"a cat\r\non a mat",7\r\n')
    assert read_prompts(path) == [Job("a cat\non a mat", 7)]


def test_seeds_beyond_the_doubles_are_exact(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path / "p.csv", f"prompt,seed\na cat,{2**64 - 1}\n")) == [Job("a cat", 2**64 - 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\na,b\n", "has no 'prompt' column .columns: name, text."),
        ("prompt,seed\na cat,twelve\n", "line 2: seed is 'twelve', which is not a number"),
        ("prompt,seed\na cat,1\na dog,nan\n", "p.csv, line 3: seed is 'nan', which is not a number"),
        ("prompt,sd_seed\na cat,inf\n", "p.csv, line 2: sd_seed is 'inf', which is not a number"),
        ("prompt,seed\na cat,1.5\n", "p.csv, line 2: seed is '1.5', which is not a whole number"),
        ("prompt,seed\na cat,18446744073709551616\n", "p.csv, line 2: Seed 18446744073709551616 does not fit"),
        ("prompt,width\na cat,nan\n", "p.csv, line 2: width is 'nan', which is not a number"),
        ("prompt,height\na cat,64.5\n", "p.csv, line 2: height is '64.5', which is not a whole number"),
        ("prompt,guidance\na cat,inf\n", "p.csv, line 2: guidance is 'inf', which is not a number"),
        ("prompt\n", "has no prompts"),
        ("", "has no 'prompt' column"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        read_prompts(write(tmp_path / "p.csv", text))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file"):
        read_prompts(tmp_path / "missing.csv")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadFile, match="not UTF-8"):
        read_prompts(tmp_path / "bytes.txt")


def test_seeds_count_up() -> None:
    assert [job.seed for job in jobs_for(["a", "b"], n=3, seed=7)] == [7, 8, 9, 7, 8, 9]


def test_a_prompt_that_comes_twice_has_twice_the_images(tmp_path: Path) -> None:
    jobs = repeated(read_prompts(write(tmp_path / "p.txt", "a\nb\na\n"), seed=5), 2)
    assert [(job.prompt, job.seed) for job in jobs] == [("a", 5), ("a", 7), ("b", 5), ("b", 6), ("a", 6), ("a", 8)]
    rows = read_prompts(write(tmp_path / "p.csv", "prompt,seed\na,5\na,5\n"))
    assert repeated(rows, 2) == [Job("a", 5), Job("a", 6)], "one and the same image"


def test_settings_are_checked() -> None:
    with pytest.raises(BadInput, match="there is: dpm"):
        Sampling(sampler="euler")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="at least 1"):
        Sampling(steps=0)
    with pytest.raises(BadInput, match="64 bits"):
        Job("a", seed=2**64)
