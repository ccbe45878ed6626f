from pathlib import Path

import numpy as np
import pytest

import efface
from efface import BadInput
from efface.generation import Job, read_folder


def test_it_returns_what_the_command_prints(answer, tiny_sd, eraser):
    eraser.save("cat.safetensors")
    printed = answer("generate", "a cat", "a dog", "-n", 2, "--steps", 2, "-e", "cat.safetensors", "--model", tiny_sd)
    result = efface.generate(["a cat", "a dog"], n=2, steps=2, eraser=eraser, model=tiny_sd, folder="out")
    content = result.to_json()
    assert printed.pop("seconds") > 0
    assert content.pop("seconds") > 0
    assert printed.pop("folder") == "a-cat-cat"
    assert content.pop("folder") == "out"
    assert content == printed
    assert [image.row for image in read_folder(Path("out"))] == result.rows
    for name in printed["images"]:
        assert Path("a-cat-cat", name).read_bytes() == Path("out", name).read_bytes()


def test_images_in_memory_are_those_of_a_folder(tiny_sd, eraser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = efface.open_model(tiny_sd)
    prompts = ["a cat", "a dog", "a cat"]
    written = efface.generate(prompts, model=model, eraser=[eraser], steps=2, n=2, folder=tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    result = efface.generate(prompts, model=model, eraser=[eraser], steps=2, n=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert result.folder is None
    assert result.to_json()["folder"] is None
    # A row of a folder has the digest of its file too.
    assert result.rows == [{key: value for key, value in row.items() if key != "sha256"} for row in written.rows]
    assert len(result.images) == len(written.images) == 4
    for one, other in zip(result.images, written.images, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert one.size == (16, 16)


def test_prompts_are_words_jobs_or_a_file(tiny_sd, tmp_path):
    model = efface.open_model(tiny_sd)
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,evaluation_seed\na cat,7\n")
    seeds = [
        [row["seed"] for row in efface.generate(prompts, model=model, steps=1, n=2, seed=3).rows]
        for prompts in ("a cat", ["a cat"], [Job("a cat", 7)], path)
    ]
    assert seeds == [[3, 4], [3, 4], [7, 8], [7, 8]]
    sized = efface.generate(["a cat", Job("a dog", width=16, height=16)], model=model, steps=1, size=(32, 16))
    assert [image.size for image in sized.images] == [(32, 16), (16, 16)]


def test_an_image_that_cannot_be_generated_is_an_error(tiny_sd):
    model = efface.open_model(tiny_sd)
    with_nan = next(model.denoiser.parameters())
    with_nan.data.fill_(float("nan"))
    result = efface.generate("a cat", model=model, steps=1)
    assert (result.images, result.errors, result.to_json()["errors"]) == ([], 1, 1)
    assert "finite" in str(result.outcomes[0].error)


def test_bad_input_is_refused(tiny_sd):
    for prompts in ([], Path("gone.txt")):
        with pytest.raises(BadInput, match=r"prompt"):
            efface.generate(prompts, model=tiny_sd)
    with pytest.raises(BadInput, match="Unknown sampler"):
        efface.generate("a cat", model=tiny_sd, sampler="magic")
