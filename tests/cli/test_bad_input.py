"""Every mistake of a user ends with exit code 2, one line that names it, and nothing half-written."""

from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("erase", "cat"), ("generate", "a cat"), ("inspect",)])
def test_unknown_model(refused, command):
    assert "no/such-model-here!" in refused(*command, "--model", "no/such-model-here!")


@pytest.mark.parametrize("concept", ["", "   "])
def test_empty_concept(refused, tiny_sd, concept):
    assert "empty" in refused("erase", concept, "--model", tiny_sd)


def test_no_concept_at_all(refused):
    assert "Nothing to erase" in refused("erase")


def test_concept_longer_than_the_tokenizer_takes(refused, tiny_sd):
    assert "token" in refused("erase", "cat " * 50, "--model", tiny_sd)


def test_guides_that_do_not_match_the_concepts(refused, tiny_sd):
    line = refused("erase", "cat", "dog", "horse", "--to", "car", "--to", "house", "--model", tiny_sd)
    assert "3 concepts" in line
    assert "2 guides" in line


def test_concept_given_twice(refused, tiny_sd):
    assert "twice" in refused("erase", "cat", "Cat", "--model", tiny_sd)


def test_concept_both_erased_and_preserved(refused, tiny_sd):
    assert "'cat'" in refused("erase", "cat", "--preserve", "cat", "--model", tiny_sd)


def test_a_preserve_file_that_contradicts_the_request(refused, tiny_sd):
    Path("keep.csv").write_text("artist\na horse\nGolf  Ball\n")
    Path("request.yaml").write_text("concepts: [golf ball]\n")
    for concept in (("golf ball",), ("--config", "request.yaml")):
        line = refused("erase", *concept, "--preserve-file", "keep.csv", "--model", tiny_sd)
        assert "'Golf Ball' is both erased and preserved" in line


def test_preserve_files_that_say_nothing(refused, tiny_sd):
    for name, content, printed in (
        ("gone.csv", None, "Cannot read"),
        ("empty.csv", "", "is empty"),
        ("header.csv", "concept\n", "is empty"),
        ("other.csv", "text,seed\na cat,1\n", "none of the columns"),
        ("binary.txt", b"\xff\xfe\x00", "UTF-8"),
        ("nul.csv", b'concept\n"' + b"x" * 200_000 + b'"\n', "field larger than field limit"),
    ):
        if content is not None:
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        line = refused("erase", "cat", "--preserve-file", name, "--model", tiny_sd)
        assert name in line
        assert printed in line


@pytest.mark.parametrize(
    ("setting", "printed"),
    [
        ("lamb", "key=value"),
        ("lamb=-1", "lamb"),
        ("lamda=1", "lamda"),
        ("lamb=[1]", "lamb"),
        ("variant=new", "variant"),
    ],
)
def test_settings_that_make_no_sense(refused, tiny_sd, setting, printed):
    assert printed in refused("erase", "cat", "-s", setting, "--model", tiny_sd)


def test_unknown_names_list_what_there_is(refused, tiny_sd, eraser):
    assert "uce" in refused("erase", "cat", "--method", "magic", "--model", tiny_sd)
    assert "err" in refused("evaluate", eraser, "--protocol", "magic", "--model", tiny_sd, "--judge", "clip")
    assert "object" in refused("erase", "cat", "--kind", "magic", "--model", tiny_sd)
    assert "dpm++" in refused("generate", "a cat", "--sampler", "magic", "--model", tiny_sd)
    for command in (("generate", "a cat"), ("erase", "cat"), ("inspect",), ("inspect", eraser)):
        assert "magic" in refused(*command, "--device", "magic", "--model", tiny_sd)


def test_eraser_of_another_base(refused, eraser, other_sd, judges):
    for command in (("generate", "a cat", "--eraser"), ("evaluate", "--judge", "sure")):
        assert "efface:" in refused(*command, eraser, "--model", other_sd, "-o", "out")


@pytest.mark.parametrize("keep", [0, 7, 100, -20])
def test_truncated_eraser(refused, eraser, tiny_sd, keep):
    eraser.write_bytes(eraser.read_bytes()[:keep])
    for command in (("inspect",), ("generate", "a cat", "--model", tiny_sd, "--eraser"), ("evaluate",)):
        assert "cat.safetensors" in refused(*command, eraser)


def test_corrupted_eraser(refused, eraser):
    content = bytearray(eraser.read_bytes())
    content[-8] ^= 1
    eraser.write_bytes(content)
    assert "cat.safetensors" in refused("inspect", eraser)


def test_missing_eraser(refused, tiny_sd):
    assert "gone.safetensors" in refused("inspect", "gone.safetensors")
    assert "gone.safetensors" in refused("generate", "a cat", "-e", "gone.safetensors", "--model", tiny_sd)


def test_csv_without_a_prompt_column(refused, tiny_sd):
    Path("bad.csv").write_text("text,seed\na cat,1\n")
    assert "prompt" in refused("generate", "--prompts", "bad.csv", "--model", tiny_sd)


def test_prompt_files_that_hold_none(refused, tiny_sd):
    assert "gone.csv" in refused("generate", "--prompts", "gone.csv", "--model", tiny_sd)
    Path("empty.txt").write_text("\n\n")
    assert "empty.txt" in refused("generate", "--prompts", "empty.txt", "--model", tiny_sd)
    assert "empty.txt" in refused("erase", "cat", "--preserve-file", "empty.txt", "--model", tiny_sd)
    assert "prompts" in refused("generate")


@pytest.mark.parametrize("target", ["no/such/folder/cat.safetensors", "/proc/cat.safetensors", "."])
def test_eraser_path_that_cannot_be_written(refused, tiny_sd, target):
    assert "Cannot write" in refused("erase", "cat", "--model", tiny_sd, "-o", target)


def test_folder_that_cannot_be_written(refused, eraser, tiny_sd, judges):
    Path("file").write_text("")
    for target in ("file", "/proc/images"):
        assert target in refused("generate", "a cat", "--model", tiny_sd, "-o", target)
        assert target in refused("evaluate", eraser, "--judge", "sure", "--model", tiny_sd, "-o", target)


def test_existing_files_are_kept(refused, eraser, tiny_sd):
    before = eraser.read_bytes()
    assert "--force" in refused("erase", "dog", "--model", tiny_sd, "-o", eraser)
    assert eraser.read_bytes() == before


def test_folders_of_other_things_are_kept(refused, eraser, tiny_sd, judges):
    Path("letters").mkdir()
    Path("letters/mother.txt").write_text("dear")
    assert "letters" in refused("generate", "a cat", "--model", tiny_sd, "-o", "letters")
    assert "letters" in refused("evaluate", eraser, "--judge", "sure", "--model", tiny_sd, "-o", "letters")
    assert "letters" in refused("demo", "-o", "letters")


def test_erasers_that_share_a_name(refused, eraser):
    Path("other").mkdir()
    Path("other/cat.safetensors").write_bytes(eraser.read_bytes())
    assert "'cat'" in refused("evaluate", eraser, "other/cat.safetensors")
    assert "eraser" in refused("evaluate")


def test_a_judge_that_cannot_recognise_the_concept(refused, efface, tiny_sd, judges):
    assert efface("erase", "unheard-of", "--model", tiny_sd, "-o", "x.safetensors").code == 0
    line = refused("evaluate", "x.safetensors", "--judge", "sure", "--model", tiny_sd, "-o", "out")
    assert "unheard-of" in line


def test_judging_needs_images_and_a_question(refused, judges):
    assert "Nothing to ask" in refused("judge", ".")
    assert "gone" in refused("judge", "gone", "--question", "cat", "--judge", "sure")
    Path("empty").mkdir()
    assert "empty" in refused("judge", "empty", "--question", "cat", "--judge", "sure")


def test_a_request_file_that_is_none(refused, tiny_sd):
    Path("bad.yaml").write_text("concepts: [cat\n")
    assert "bad.yaml" in refused("erase", "--config", "bad.yaml", "--model", tiny_sd)
    Path("good.yaml").write_text("concepts: [cat]\n")
    assert "good.yaml" in refused("erase", "dog", "--config", "good.yaml", "--model", tiny_sd)


def test_usage_mistakes_are_one_line_too(refused):
    assert "magic" in refused("magic")
    assert "--magic" in refused("erase", "cat", "--magic")
    assert "--steps" in refused("generate", "a cat", "--steps", "many")


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (("--dtype", "float64"), "Unknown type 'float64'; use auto, float32, bf16 or fp16."),
        (("--offload", "disk"), "Unknown offloading 'disk'; use none, model, group or sequential."),
        (("--quantize", "int4"), "Unknown quantisation 'int4'; use none, int8, fp8 or nf4."),
        (("--quantize", "int8", "--offload", "group"), "in whole parts only"),
        (("--compile", "--offload", "sequential"), "cannot be compiled"),
        (("--attention", "flash"), "has no backends"),
    ],
)
def test_options_of_the_runtime_that_make_no_sense(refused, tiny_sd, options, printed):
    assert printed in refused("generate", "a cat", "--model", tiny_sd, "--steps", 1, *options)


def test_training_with_offloading(refused, tiny_sd):
    assert "leave --offload out" in refused("erase", "cat", "--method", "esd", "--model", tiny_sd, "--offload", "group")


def test_plans_that_make_no_sense(refused, tiny_sd):
    assert "give GiB" in refused("plan", tiny_sd, "--vram", "-1")
    assert "multiple of" in refused("plan", tiny_sd, "--size", "17")
    assert "no/such-model!" in refused("plan", "no/such-model!")
    assert "magic" in refused("plan", tiny_sd, "--method", "magic")
    assert "lamda" in refused("plan", tiny_sd, "-s", "lamda=1")


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf"])
def test_a_strength_that_is_not_finite(refused, strength):
    assert f"--strength {strength} is no strength" in refused("generate", "a cat", "--strength", strength)
