"""Anchor pictures: drawn once, shared by slots, read from folders, and without copies of a memorised picture."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import efface
from efface import BadInput, Concept, Model, Request
from efface.eraser.record import EraserRecord
from efface.eraser.solve import solve_request
from efface.generation.jobs import Sampling
from efface.generation.sampling import sample
from efface.methods.trained.ablate.config import AblateConfig
from efface.methods.trained.ablate.images import AnchorImages, square
from efface.tools import CachedPictures


def ablated(
    model: Model, request: Request, context: efface.RunContext, pictures: CachedPictures, copies: Any
) -> EraserRecord:
    tools: Any = {"context": context, "pictures": pictures, "copies": copies, "read_eraser": None}
    tools = {name: lambda tool=tool: tool for name, tool in tools.items()}
    return solve_request(model, request, tools)


def gallery(model: Model, concept: Concept, copies: Any = None, **options: Any) -> AnchorImages:
    config = AblateConfig.model_validate({"sampling_steps": 1, **options})
    return AnchorImages(model, concept, config, CachedPictures(model), copies, 16, None)


DOG = Concept(name="cat", guide="dog")


def test_slots_share_the_pictures_prompt_by_prompt(tiny_model: Model, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a dog\nthe dog\ndog\n")
    made = gallery(tiny_model, DOG, prompts=str(prompts), train_size=8, seed=5)
    whole = made.of_slot(0, 1, 100)
    assert [shot.caption for shot in whole] == ["a dog", "the dog", "dog"] * 2 + ["a dog", "the dog"]
    assert len({shot.picture.numpy().tobytes() for shot in whole}) == 8
    parts = [made.of_slot(slot, 2, 100) for slot in (0, 1)]
    for slot, part in enumerate(parts):
        assert all(torch.equal(one.picture, other.picture) for one, other in zip(part, whole[slot::2], strict=True))
    assert len(made.of_slot(0, 1, 3)) == 3  # no more are drawn than are trained on
    drawn = CachedPictures(tiny_model).draw(["the dog"], [6], steps=1, guidance=6.0, sampler="dpm++")
    assert torch.equal(square(torch.from_numpy(drawn[0]), 16), whole[4].picture)


def test_pictures_are_resized_to_the_models_size_from_their_middle() -> None:
    wide = torch.zeros(20, 40, 3, dtype=torch.uint8)
    wide[:, 10:30] = 200
    assert torch.equal(square(wide, 10), torch.full((3, 10, 10), 200, dtype=torch.uint8))
    assert square(wide, 20).shape == (3, 20, 20)


def write_pictures(folder: Path, prompts: Sequence[str] | None, count: int = 3) -> Path:
    folder.mkdir()
    rows: list[dict[str, str]] = []
    for index in range(count):
        Image.new("RGB", (24, 16), (80 * index, 0, 0)).save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", **({"prompt": prompts[index]} if prompts else {})})
    if prompts:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_folder_of_pictures_takes_the_place_of_drawing(tiny_model: Model, tmp_path: Path) -> None:
    captions = ["a dog", "the dog", "one dog"]
    folder = write_pictures(tmp_path / "with", captions)
    made = gallery(tiny_model, DOG, datapath=str(folder))
    assert [shot.caption for shot in made.of_slot(0, 1, 9)] == captions
    assert [int(shot.picture[0, 0, 0]) for shot in made.of_slot(0, 1, 9)] == [0, 80, 160]
    assert [shot.caption for shot in made.of_slot(4, 8, 9)] == captions  # fewer pictures than slots
    bare, lines = write_pictures(tmp_path / "bare", None), tmp_path / "captions.txt"
    with pytest.raises(BadInput, match="prompts=FILE"):
        gallery(tiny_model, DOG, datapath=str(bare))
    lines.write_text("\n".join(captions))
    again = gallery(tiny_model, DOG, datapath=str(bare), prompts=str(lines))
    assert again.source.digest == made.source.digest
    lines.write_text("a dog\n")
    with pytest.raises(BadInput, match=r"3 images but .* 1 prompts"):
        gallery(tiny_model, DOG, datapath=str(bare), prompts=str(lines))
    lines.write_text("a dog\na horse\ndog\n")
    with pytest.raises(BadInput, match="'a horse'"):
        gallery(tiny_model, DOG, datapath=str(bare), prompts=str(lines))
    Image.new("RGB", (24, 16), (9, 9, 9)).save(folder / "1.png")
    assert gallery(tiny_model, DOG, datapath=str(folder)).source.digest != made.source.digest


def test_pictures_are_made_small_as_they_are_read(tiny_model: Model, tmp_path: Path) -> None:
    alive: list[Any] = []

    class Watched(CachedPictures):
        def read(self, folder: Path) -> Any:
            for caption, pixels in super().read(folder):
                alive.append(weakref.ref(pixels))
                yield caption, pixels
                assert sum(picture() is not None for picture in alive) <= 2

    folder = write_pictures(tmp_path / "many", ["dog"] * 6, 6)
    config = AblateConfig(datapath=str(folder))
    assert (
        len(AnchorImages(tiny_model, DOG, config, Watched(tiny_model), None, 16, None).source.given) == len(alive) == 6
    )


def test_files_that_cannot_be_read_are_named(tiny_model: Model, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "with", ["dog"] * 3)
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2.png").unlink()
    with pytest.raises(BadInput, match=r"1\.png, 2\.png") as caught:
        efface.erase(tiny_model, "cat", "dog", method="ablate", datapath=str(folder))
    assert "\n" not in str(caught.value)


def test_pictures_are_drawn_once(tiny_model: Model, tiny_sd: Path) -> None:
    how: dict[str, Any] = {"steps": 1, "guidance": 2.0, "sampler": "ddim"}
    reported: list[tuple[str, int, int]] = []
    first = CachedPictures(tiny_model, lambda what, done, total, note="": reported.append((what, done, total)))
    some = first.draw(["a dog", "a car", "a dog"], [1, 2, 1], what="anchors", **how)
    assert np.array_equal(some[0], some[2])
    assert reported == [("anchors", 1, 2), ("anchors", 2, 2)]
    more = first.draw(["a car", "a house"], [2, 3], **how)
    assert np.array_equal(more[0], some[1])
    assert reported[2:] == [("pictures", 2, 2)]
    damaged = efface.open_model(tiny_sd)
    preserved = CachedPictures(damaged).draw(["a dog"], [1], **how)
    assert np.array_equal(preserved[0], some[0])
    damaged.denoiser.get_parameter("conv_in.weight").data[0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        CachedPictures(damaged).draw(["a dog"], [99], **how)


def test_an_interrupted_run_draws_in_the_batches_that_it_began_with(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures may depend on their batch by a rounded pixel, so a batch is drawn whole whatever the cache has of it."""
    batches: list[list[int]] = []

    def recorded(model: Model, jobs: Sequence[Any], how: Any) -> Any:
        batches.append([job.seed for job in jobs])
        return sample(model, jobs, how)

    def interrupted(what: str, done: int, total: int, note: str = "") -> None:
        if done == n + 1:
            raise KeyboardInterrupt

    n = Sampling.default(tiny_model).batch_size
    how: dict[str, Any] = {"steps": 1, "guidance": 2.0, "sampler": "ddim"}
    seeds = list(range(n + 3))
    monkeypatch.setattr("efface.tools.sample", recorded)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "whole"))
    whole = CachedPictures(tiny_model).draw(["a dog"] * len(seeds), seeds, **how)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        CachedPictures(tiny_model, interrupted).draw(["a dog"] * len(seeds), seeds, **how)
    again = CachedPictures(tiny_model).draw(["a dog"] * len(seeds), seeds, **how)
    assert batches == [seeds[:n], seeds[n:], seeds[:n], seeds[n:], seeds[n:]]
    assert all(np.array_equal(one, other) for one, other in zip(whole, again, strict=True))


class Bright:
    """Takes pictures of some prompts for copies: those that it was shown beforehand."""

    def __init__(self, copies: Sequence[np.ndarray[Any, Any]]) -> None:
        self.known = {picture.tobytes() for picture in copies}

    def __call__(self, pictures: Sequence[np.ndarray[Any, Any]], original: Path) -> list[bool]:
        assert original.name == "original.png"
        return [np.ascontiguousarray(picture).tobytes() in self.known for picture in pictures]


def test_anchors_are_the_prompts_that_copy_least_and_copies_are_left_out(tiny_model: Model, tmp_path: Path) -> None:
    words = ["an", "of", "in", "the", "cat", "dog", "horse", "house", "car", "boat", "bird", "parrot", "golf", "ball"]
    prompts = [f"a {word} star" for word in words]
    file = tmp_path / "p.txt"
    file.write_text("\n".join(prompts))
    drawn = CachedPictures(tiny_model).draw(
        [prompt for prompt in prompts for _ in range(5)], list(range(5)) * len(prompts), steps=1, guidance=6.0,
        sampler="dpm++",
    )  # fmt: skip
    # Prompt i is a copy in the first counts[i] of its five pictures.
    counts = [5, 0, 0, 1, 0, 5, 0, 0, 4, 0, 0, 0, 3, 2]
    detector = Bright([drawn[5 * i + k] for i, count in enumerate(counts) for k in range(count)])
    concept = Concept(name="the star", kind="memorised")
    options: dict[str, Any] = {"prompts": str(file), "mem_impath": str(tmp_path / "original.png"), "train_size": 25}
    made = gallery(tiny_model, concept, detector, **options)
    order = sorted(range(14), key=lambda i: counts[i])
    assert made.source.captions == tuple(prompts[i] for i in order[:10])
    assert made.source.targets == ("the star", *(prompts[i] for i in order[-3:]))
    shots = made.of_slot(0, 1, 100)
    assert len(shots) == 22  # of 25, one picture of prompt 3 and two of prompt 13 are copies
    assert not any(detector([shot.picture.permute(1, 2, 0).numpy() for shot in shots], Path("original.png")))
    # Of ten prompts, those that always copy are no anchors, and are ablated.
    file.write_text("\n".join(prompts[:10]))
    few = gallery(tiny_model, concept, detector, **options)
    assert few.source.captions == tuple(prompts[i] for i in (1, 2, 4, 6, 7, 9, 3, 8))
    assert few.source.targets == ("the star", prompts[0], prompts[5])
    everything = Bright(drawn)
    with pytest.raises(BadInput, match="Every anchor prompt"):
        gallery(tiny_model, concept, everything, **options)


def test_a_memorised_picture_is_ablated_with_a_detector(tiny_model: Model, tmp_path: Path) -> None:
    original = tmp_path / "original.png"
    Image.new("RGB", (16, 16)).save(original)
    options: dict[str, Any] = {
        "mem_impath": str(original), "train_max_steps": 2, "batch_size": 2, "sampling_steps": 1, "base_lr": 1e-3,
        "parameter_group": "cross-attn",
    }  # fmt: skip
    request = Request.make("the star", kind="memorised", method="ablate", options=options)
    eraser = ablated(tiny_model, request, efface.RunContext(), CachedPictures(tiny_model), Bright([]))
    assert eraser.kind_of_edit == "weight"
    assert eraser.provenance["ablated"]["the star"]["targets"] == ["the star"]


def test_a_memorised_picture_is_read_before_anything_is_drawn(tiny_model: Model, tmp_path: Path) -> None:
    class Undrawn(CachedPictures):
        def draw(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("nothing is to be drawn")

    original = tmp_path / "original.png"
    Image.effect_noise((16, 16), 50).save(original)
    original.write_bytes(original.read_bytes()[:-40])
    options = {"mem_impath": str(original)}
    request = Request.make("the star", "a moon", kind="memorised", method="ablate", options=options)
    with pytest.warns(UserWarning, match="'a moon' does not change"), pytest.raises(BadInput, match="truncated"):
        ablated(tiny_model, request, efface.RunContext(), Undrawn(tiny_model), Bright([]))


def test_a_training_does_not_go_on_with_other_pictures(tiny_model: Model, tmp_path: Path) -> None:
    """The same prompts and the same targets, but the detector leaves out another picture."""
    original = tmp_path / "original.png"
    Image.new("RGB", (16, 16)).save(original)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a star\n")
    drawn = CachedPictures(tiny_model).draw(["a star"] * 2, [0, 1], steps=1, guidance=6.0, sampler="dpm++")
    options: dict[str, Any] = {
        "mem_impath": str(original), "train_max_steps": 1, "batch_size": 2, "sampling_steps": 1,
        "parameter_group": "cross-attn", "prompts": str(prompts),
    }  # fmt: skip
    request = Request.make("the star", kind="memorised", method="ablate", options=options)

    def run(copy: int) -> str:
        work, pictures = efface.RunContext(tmp_path / "t"), CachedPictures(tiny_model)
        return ablated(tiny_model, request, work, pictures, Bright([drawn[copy]])).hash

    assert run(0) == run(0)
    with pytest.raises(BadInput, match="--force"):
        run(1)
