"""RECE: its settings, files and prompts, with the effect that its documentation states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import efface as package
from command_line import Efface
from efface import Eraser, open_model
from published_rece import published
from support import relative, the_edit

SETTINGS = ("emb_computing=close_regzero", "regular_scale=0.1", "epochs=3", "preserve_scale=0.1", "lamb=0.1")
LINE = ("--method", "rece", "--kind", "nudity", *(word for setting in SETTINGS for word in ("-s", setting)))
RECE = ("erase", "cat", "--method", "rece")


def published_weights(model: Path) -> list[Tensor]:
    """The weights that the line's command gives: UCE towards the empty prompt, and three epochs of RECE."""
    opened = open_model(model)
    start = the_edit(package.erase(opened, "cat", kind="unsafe", variant="window"))
    return published(opened, start, [("cat", "")], [""], 3, 0.1, how="close_regzero", item="1st")


def changes(eraser: Eraser, model: Path) -> Tensor:
    """The change of all weights that read the text."""
    weights = [weight.double() for _, weight in open_model(model).text_weights()]
    return torch.cat([the_edit(eraser).on(weight) - weight for weight in weights])


def write_checkpoint(path: Path, model: Path, weights: list[Tensor]) -> None:
    """The state dict of the denoiser, as UCE and RECE save it, with other weights that read the text."""
    opened = open_model(model)
    names = [name for name, _ in opened.text_weights()]
    edited = {name: weight.float() for name, weight in zip(names, weights, strict=True)}
    torch.save({**opened.denoiser.state_dict(), **edited}, path)


def test_r1_the_command_of_the_readme(efface: Efface, tiny_sd: Path) -> None:
    assert efface("erase", "cat", *LINE, "--model", tiny_sd, "-o", "rece.safetensors").code == 0
    weights = torch.cat([weight.double() for _, weight in open_model(tiny_sd).text_weights()])
    expected = torch.cat(published_weights(tiny_sd)) - weights
    assert relative(changes(Eraser.load("rece.safetensors"), tiny_sd), expected) < 1e-6


def test_r2_it_starts_from_the_checkpoint_of_uce_itself(
    efface: Efface, refused: Callable[..., str], tiny_sd: Path, tmp_path: Path
) -> None:
    opened = open_model(tiny_sd)
    start = the_edit(package.erase(opened, "cat", kind="unsafe", variant="window"))
    write_checkpoint(Path("uce.pt"), tiny_sd, [start.on(weight.double()) for _, weight in opened.text_weights()])
    command = ("erase", "cat", *LINE, "--model", tiny_sd, "-s", "target_ckpt=uce.pt")
    ended = efface(*command, "-o", "rece.safetensors")
    assert "uce.pt: imported, format weights" in ended.err
    weights = torch.cat([weight.double() for _, weight in opened.text_weights()])
    expected = torch.cat(published_weights(tiny_sd)) - weights
    found = changes(Eraser.load("rece.safetensors"), tiny_sd)
    assert relative(found, expected) < 1e-3
    (cached,) = (tmp_path / "cache" / "imported").glob("*.safetensors")
    written = cached.stat().st_mtime_ns
    assert efface(*command, "-o", "again.safetensors").code == 0
    assert cached.stat().st_mtime_ns == written
    assert relative(changes(Eraser.load("again.safetensors"), tiny_sd), found) < 1e-10
    Path("uce.pt").write_bytes(Path("uce.pt").read_bytes()[:1000])
    assert "cut short or damaged" in refused(*command, "-o", "third.safetensors")
    assert "There is no eraser file none.pt" in refused(*command[:-1], "target_ckpt=none.pt")


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("nudity", (0.1, 3)),
        ("unsafe", (0.1, 2)),
        ("art", (1e-3, 1)),
        ("difficult", (1e-3, 1)),
        ("easy", (0.1, 1)),
    ],
)
def test_r3_the_published_settings_have_names(
    efface: Efface, tiny_sd: Path, preset: str, settings: tuple[float, int]
) -> None:
    command = (*RECE, "--model", tiny_sd)
    scale, epochs = settings
    assert efface(*command, "-s", f"preset={preset}", "-o", "preset.safetensors").code == 0
    given = ("-s", f"regular_scale={scale}", "-s", f"epochs={epochs}")
    assert efface(*command, *given, "-o", "given.safetensors").code == 0
    same = [the_edit(Eraser.load(f"{name}.safetensors")).matrix for name in ("preset", "given")]
    assert relative(*same) < 1e-10
    assert efface(*command, "-s", f"preset={preset}", "-s", "epochs=0", "-o", "uce.safetensors").code == 0
    assert relative(the_edit(Eraser.load("uce.safetensors")).matrix, same[0]) > 0.01


def test_r3_a_concept_that_uce_erased_gets_no_epoch(efface: Efface, refused: Callable[..., str]) -> None:
    """On the embedded model UCE erases the cat; with a ridge that allows no change it does not."""
    command = (*RECE, "--to", "dog", "-s", "preset=easy", "-s", "skip_if_forgotten=true")
    ended = efface(*command, "-o", "skipped.safetensors")
    assert "After UCE alone, 0% of the images show 'cat'." in ended.err
    assert "UCE alone erases cat: no epoch of RECE is run." in ended.err
    skipped = Eraser.load("skipped.safetensors")
    assert skipped.provenance["recognised_after_uce"] == {"cat": 0}
    uce = package.erase("emoji", "cat", "dog", variant="window")
    assert relative(the_edit(skipped).matrix, the_edit(uce).matrix) < 1e-6
    ended = efface(*command, "-s", "uce.lamb=100000", "-o", "run.safetensors")
    assert "100% of the images show 'cat'" in ended.err
    assert "no epoch" not in ended.err
    assert the_edit(Eraser.load("run.safetensors")).rank > the_edit(skipped).rank
    ended = efface("erase", "yeti", *command[2:])  # a name outside the model's world comes with a warning first
    assert ended.code == 2
    assert "cannot recognise 'yeti'" in ended.err.splitlines()[-1]


def shown(efface: Efface, prompt: str, concept: str, *eraser: str) -> int:
    """The number of images of six that show a concept."""
    folder = f"{concept}-{len(eraser)}"
    assert efface("generate", prompt, "-n", 6, *eraser, "-o", folder).code == 0
    return efface("judge", folder, "--question", concept, "--json").json()["questions"][concept]["yes"]


@pytest.mark.parametrize(
    ("concept", "kind", "prompt", "others"),
    [
        ("church", "object", "a church", {"a guitar": "guitar"}),
        ("blueprint", "style", "a cat in blueprint style", {"a cat in pixel art style": "pixel art"}),
    ],
)
def test_r4_it_forgets_and_retains_without_any_setting(
    efface: Efface, concept: str, kind: str, prompt: str, others: dict[str, str]
) -> None:
    ended = efface("erase", concept, "--method", "rece", "--kind", kind, "-o", "rece.safetensors")
    assert "tokens=last" in ended.out
    eraser = ("--eraser", "rece.safetensors")
    assert shown(efface, prompt, concept) >= 5
    assert shown(efface, prompt, concept, *eraser) <= 1
    for other, name in others.items():
        assert shown(efface, other, name, *eraser) >= 5


def test_r5_the_model_of_the_authors_is_imported(efface: Efface, tiny_sd: Path, tmp_path: Path) -> None:
    write_checkpoint(Path("rece.pt"), tiny_sd, published_weights(tiny_sd))
    command = ("import", "rece.pt", "--concept", "nudity", "--kind", "nudity", "--model", tiny_sd)
    assert efface(*command, "-o", "rece.safetensors").code == 0
    assert Eraser.load("rece.safetensors").concepts == ("nudity",)
    pipeline = open_model(tiny_sd).pipeline()
    pipeline.unet.load_state_dict(torch.load("rece.pt", weights_only=True))
    pipeline.save_pretrained(tmp_path / "theirs")
    generate = ("generate", "a cat", "-n", 2, "--steps", 3)
    assert efface(*generate, "--model", tiny_sd, "--eraser", "rece.safetensors", "-o", "ours").code == 0
    assert efface(*generate, "--model", tmp_path / "theirs", "-o", "theirs").code == 0
    assert efface(*generate, "--model", tiny_sd, "-o", "before").code == 0
    ours, theirs, before = ([path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]
                            for folder in ("ours", "theirs", "before"))  # fmt: skip
    assert ours == theirs != before


I2P = """prompt,categories,nudity_percentage,sd_seed
a cat,"violence, hate",0.0,11
a red car,sexual,12.5,12
a blue bird,"sexual, violence",60.0,13
"""


def prompts_of(folder: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (Path(folder) / "metadata.jsonl").read_text().splitlines()]


def test_r6_the_rows_of_one_concept_are_generated_with_their_checkpoint(
    efface: Efface, refused: Callable[..., str], tiny_sd: Path
) -> None:
    Path("i2p.csv").write_text(I2P)
    write_checkpoint(Path("rece.pt"), tiny_sd, published_weights(tiny_sd))
    command = ("generate", "--prompts", "i2p.csv", "--eraser", "rece.pt", "--steps", 2, "--model", tiny_sd)
    assert efface(*command, "--only", "nudity", "-o", "nudity").code == 0
    assert prompts_of("nudity") == ["a red car", "a blue bird"]
    assert efface(*command, "--only", "Violence", "-o", "violence").code == 0
    assert prompts_of("violence") == ["a cat", "a blue bird"]
    assert efface(*command[:3], "--steps", 2, "--model", tiny_sd, "--only", "hate", "-o", "before").code == 0
    (edited,) = (path.read_bytes() for path in Path("violence").glob("a-cat*.png"))
    assert [path.read_bytes() for path in Path("before").glob("*.png")] != [edited]
    line = refused(*command, "--only", "shocking", "-o", "none")
    assert "has the concept 'shocking'; its concepts are: hate, nudity, sexual, violence." in line
    assert "file of prompts" in refused("generate", "a cat", "--only", "cat")
    Path("prompts.txt").write_text("a cat\n")
    assert "names no concepts" in refused("generate", "--prompts", "prompts.txt", "--only", "cat")


def test_r6_the_rows_of_one_artist(efface: Efface, tiny_sd: Path) -> None:
    Path("art.csv").write_text("case_number,prompt,evaluation_seed,artist\n0,a cat,1,Van Gogh\n1,a dog,2,Picasso\n")
    command = ("generate", "--prompts", "art.csv", "--only", "van gogh", "--steps", 1, "--model", tiny_sd, "-o", "art")
    assert efface(*command).code == 0
    assert prompts_of("art") == ["a cat"]


def test_r6_the_export_is_the_checkpoint(efface: Efface, tiny_sd: Path) -> None:
    assert efface("erase", "cat", *LINE, "--model", tiny_sd, "-o", "rece.safetensors").code == 0
    assert (
        efface("export", "rece.safetensors", "--format", "uce", "--model", tiny_sd, "-o", "out.safetensors").code == 0
    )
    exported = load_file("out.safetensors")
    names = [name for name, _ in open_model(tiny_sd).text_weights()]
    for name, weight in zip(names, published_weights(tiny_sd), strict=True):
        torch.testing.assert_close(exported[name].double(), weight, rtol=1e-4, atol=1e-5)
