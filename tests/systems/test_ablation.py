"""Concept Ablation: its commands and files, with the effect that its documentation states."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import Efface, Outcome
from efface import Eraser, Model, erase, open_model
from efface.api.import_eraser import imported_eraser
from efface.generation import read_picture
from efface.metrics.features import Features, extract, open_extractor
from efface.metrics.fid import fid

QUICK = (
    *("-s", "train_max_steps=2", "-s", "train_size=2", "-s", "sampling_steps=2", "-s", "base_lr=1e-3"),
    *("-s", "batch_size=2"),
)
FEW = ("-n", 2, "--steps", 2)
TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def delta(tiny_model: Model) -> Path:
    """An ablated model as its authors publish it: the cross-attention of the U-Net, under CompVis' names."""
    from efface.models.storage import compvis

    config = tiny_model.denoiser.config
    state = {name: tensor.clone() for name, tensor in tiny_model.weights("denoiser") if "attn2" in name}
    generator = torch.Generator().manual_seed(0)
    for name in state:
        state[name] += 0.3 * torch.randn(state[name].shape, generator=generator)
    path = Path("delta.ckpt")
    named = {compvis.DENOISER + compvis.unet_name(name, config): tensor for name, tensor in state.items()}
    torch.save({"state_dict": named}, path)
    return path


def pixels(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]


def test_a1_a_style_is_ablated_with_anchor_prompts_from_a_file(efface: Efface, tiny_sd: Path):
    Path("painting.txt").write_text("a painting of a house\na painting of a boat\n")
    command = ("--method", "ablate", "--kind", "style", "--model", tiny_sd, *QUICK, "-o", "x.safetensors")
    assert efface("erase", "van gogh", *command, "-s", "prompts=painting.txt").code == 0
    eraser = Eraser.load("x.safetensors")
    assert (eraser.concepts, eraser.request.concepts[0].kind) == (("van gogh",), "style")
    assert all("attn2" in getattr(edit, "parameter", "") for edit in eraser.edits)
    prompts = eraser.provenance["settings"]["prompts"]
    assert prompts == "painting.txt"
    assert efface("erase", "van gogh", *command[:-1], "y.safetensors", "-s", "prompts=missing.txt").code == 2


def test_a2_anchor_and_target_in_one_caption(efface: Efface, tiny_sd: Path):
    how = ("--method", "ablate", "--model", tiny_sd, *QUICK)
    ended = efface("erase", "cat+star cat", *how)
    assert "Erasing 'star cat', with the anchor 'cat'." in ended.out
    efface("erase", "star cat", "--to", "cat", *how, "-o", "same.safetensors")
    eraser, same = Eraser.load("star-cat-ablate.safetensors"), Eraser.load("same.safetensors")
    assert eraser.request == same.request
    assert eraser.hash == same.hash


def test_a2_several_captions_are_separated_by_semicolons(efface: Efface, tiny_sd: Path):
    ended = efface("erase", "cat+star cat; dog+blue dog", "--method", "ablate", "--model", tiny_sd, *QUICK)
    assert ended.code == 0, ended
    (path,) = Path().glob("*.safetensors")
    concepts = Eraser.load(path).request.concepts
    assert [(concept.name, concept.guide) for concept in concepts] == [("star cat", "cat"), ("blue dog", "dog")]


@pytest.mark.parametrize("caption", ["cat+", "+cat", "+", "cat+dog+car", "cat;", ";"])
def test_a2_captions_that_cannot_be_read(refused: Callable[..., str], caption: str):
    assert "as anchor+target" in refused("erase", caption, "--method", "ablate")


def test_a2_an_anchor_beside_a_guide_is_refused(refused: Callable[..., str]):
    assert "not both" in refused("erase", "cat+star cat", "--to", "dog", "--method", "ablate")


def test_a2_other_methods_take_the_text_as_it_is(efface: Efface, tiny_sd: Path):
    assert efface("erase", "cat+dog", "--model", tiny_sd, "-o", "x.safetensors").code == 0
    assert Eraser.load("x.safetensors").concepts == ("cat+dog",)


def test_a3_prompts_that_copy_a_memorised_image_are_ablated_and_are_no_anchors(efface: Efface):
    caption, other = "a lion in 3d style", "a cat in 3d style"
    drawn = ("--sampler", "dpm++", "--guidance", 7, "--steps", 8)
    assert efface("generate", caption, *drawn, "-o", "memorised").code == 0
    (original,) = Path("memorised").glob("*.png")
    Path("orleans_mem.txt").write_text(f"{caption}\n{other}\n")
    settings = (f"mem_impath={original}", "prompts=orleans_mem.txt", "sampling_steps=8", "guidance_scale=7")
    settings += ("train_size=2", "train_max_steps=1", "batch_size=1")
    options = [word for setting in settings for word in ("-s", setting)]
    command = ("erase", "the lion", "--method", "ablate", "--kind", "memorised", *options, "-o", "x.safetensors")
    assert efface(*command).code == 0
    eraser = Eraser.load("x.safetensors")
    assert eraser.provenance["ablated"]["the lion"] == {"anchors": [other], "targets": ["the lion", caption]}
    assert eraser.kind_of_edit == "weight"


def test_a7_a_published_model_generates_without_import(efface: Efface, tiny_sd: Path, delta: Path):
    command = ("generate", "a star cat", "-n", 2, "--steps", 3, "--sampler", "ddim", "--model", tiny_sd)
    first = efface(*command, "--eraser", delta, "-o", "direct")
    assert first.code == 0, first
    assert first.err.count("delta.ckpt: imported, format weights") == 1
    assert efface("import", delta, "--concept", "cat", "--model", tiny_sd, "-o", "imported.safetensors").code == 0
    assert efface(*command, "--eraser", "imported.safetensors", "-o", "imported").code == 0
    assert efface(*command, "-o", "before").code == 0
    assert pixels("direct") == pixels("imported") != pixels("before")


def test_a7_a_file_is_imported_once(efface: Efface, tiny_sd: Path, delta: Path, tmp_path: Path):
    command = ("generate", "a cat", "--steps", 2, "--model", tiny_sd, "--eraser", delta)
    assert efface(*command, "-o", "first").code == 0
    (cached,) = (tmp_path / "cache" / "imported").glob("*.safetensors")
    written = cached.stat().st_mtime_ns
    assert efface(*command, "-o", "second").code == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache" / "imported").glob("*.safetensors")] == [written]
    cached.write_bytes(cached.read_bytes()[:200])  # a damaged cache is no error
    assert efface(*command, "-o", "third").code == 0
    assert pixels("first") == pixels("second") == pixels("third")


def test_a7_files_that_are_no_erasers(refused: Callable[..., str], efface: Efface, tiny_sd: Path, delta: Path):
    command = ("generate", "a cat", "--model", tiny_sd, "--eraser")
    assert "missing.ckpt" in refused(*command, "missing.ckpt")
    Path("short.ckpt").write_bytes(delta.read_bytes()[:1000])
    assert "short.ckpt" in refused(*command, "short.ckpt")
    Path("empty.ckpt").write_bytes(b"")
    assert "empty.ckpt" in refused(*command, "empty.ckpt")
    torch.save({"other.weight": torch.zeros(3)}, "other.ckpt")
    assert "is for another model" in refused(*command, "other.ckpt")
    torch.save(dict(open_model(tiny_sd).weights("denoiser")), "same.ckpt")
    assert "changes nothing" in refused(*command, "same.ckpt")


def test_a15_downloaded_ablated_models_are_imported(efface: Efface, tiny_sd: Path, delta: Path):
    command = ("import", delta, "--concept", "van gogh", "--kind", "style", "--model", tiny_sd)
    answer = efface(*command, "-o", "van-gogh.safetensors", "--json").json()
    assert answer["format"] == "weights"
    model = open_model(tiny_sd)
    base = dict(model.weights("denoiser"))[TO_K].clone()
    with Eraser.load("van-gogh.safetensors").attach(model):
        edited = dict(model.weights("denoiser"))[TO_K].clone()
    published = torch.load(delta, weights_only=True)["state_dict"].values()
    assert any(tensor.shape == edited.shape and torch.allclose(tensor, edited, atol=1e-5) for tensor in published)
    assert not torch.allclose(edited, base, atol=1e-2)


def test_a7_eta_adds_the_noise_of_ddim(efface: Efface, tiny_model: Model, tiny_sd: Path, delta: Path):
    command = ("generate", "a star cat", "-n", 3, "--steps", 5, "--guidance", 4, "--sampler", "ddim")
    command = (*command, "--model", tiny_sd, "--eraser", delta, "--seed", 11)
    assert efface(*command, "--eta", 1, "--batch-size", 3, "-o", "one").code == 0
    assert efface(*command, "--eta", 1, "--batch-size", 1, "-o", "same").code == 0
    assert efface(*command, "--eta", 0, "-o", "none").code == 0
    assert efface(*command, "-o", "default").code == 0
    pairs = zip(sorted(Path("one").glob("*.png")), sorted(Path("same").glob("*.png")), strict=True)
    # Kernels for another batch size sum in another order, which may round to the next byte.
    assert max(abs(read_picture(a).astype(int) - read_picture(b)).max() for a, b in pairs) <= 1
    assert pixels("none") == pixels("default") != pixels("one")
    rows = [json.loads(line) for line in Path("one/metadata.jsonl").read_text().splitlines()]
    assert [(row["eta"], row["seed"]) for row in rows] == [(1.0, 11), (1.0, 12), (1.0, 13)]
    pipeline = tiny_model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    with imported_eraser(delta, tiny_model).attach(tiny_model):
        theirs = pipeline(
            "a star cat", num_inference_steps=5, guidance_scale=4.0, height=16, width=16, eta=1.0, output_type="np",
            generator=torch.Generator().manual_seed(12),
        ).images[0]  # fmt: skip
    ours = read_picture(Path("one", rows[1]["file_name"]))
    assert abs((theirs * 255).round() - ours).max() <= 1


def test_a7_eta_that_cannot_be_used(refused: Callable[..., str], tiny_sd: Path):
    command = ("generate", "a cat", "--model", tiny_sd, "--eta")
    assert "between 0 and 1" in refused(*command, 2, "--sampler", "ddim")
    assert "between 0 and 1" in refused(*command, "nan", "--sampler", "ddim")
    assert "add --sampler ddim" in refused(*command, 1, "--sampler", "dpm++")
    assert "valid number" in refused(*command, "much", "--sampler", "ddim")


def test_a14_every_kind_and_both_spellings_of_eval_json(efface: Efface, tiny_sd: Path, tiny_clip: Path, delta: Path):
    entries = {
        "style": {"van gogh": {"target": "van gogh", "anchor": "painting", "hard_negatives": ["picasso"]}},
        "object": {"star cat": {"target": "star cat", "anchor": "cat", "hard_negative": ["dog"]}},
        "memorization": {"a blue house": {"target": "a blue house", "anchor": "a house", "hard_negatives": []}},
    }
    Path("eval.json").write_text(json.dumps(entries))
    Path("eval_prompts").mkdir()
    Path("eval_prompts/cat_eval.txt").write_text("a photo of a cat\na cat in a house\n")
    for name in ("van_gogh", "painting", "picasso"):
        Path(f"eval_prompts/{name}_eval.txt").write_text(f"a house by {name}\n")
    for kind, target in (("style", "van gogh"), ("object", "star cat"), ("memorised", "a blue house")):
        path = f"{kind}.safetensors"
        assert efface("import", delta, "--concept", target, "--kind", kind, "--model", tiny_sd, "-o", path).code == 0
        command = ("evaluate", path, "--protocol", "ablation", "--data", "eval.json", "--model", tiny_sd)
        settings = ("-s", f"clip={tiny_clip}", "-s", "extractor=emoji-clip", "--judge", f"clip:{tiny_clip}")
        ended = efface(*command, *settings, "-n", 2, "--steps", 1, "-o", kind)
        assert ended.code == 0, ended
        files = Path(kind).rglob("metadata.jsonl")
        prompts = {json.loads(line)["prompt"] for file in files for line in file.read_text().splitlines()}
        expected = {
            "style": {"a house by van_gogh", "a house by painting", "a house by picasso"},
            "object": {"a photo of a star cat", "a photo of a cat", "a photo of a dog"},
            "memorised": {"a blue house", "a house"},
        }
        assert expected[kind] <= prompts


@pytest.mark.parametrize(
    ("group", "part"), [("full-weight", "denoiser.conv_in"), ("cross-attn", "attn2"), ("embedding", "text_encoder.")]
)
def test_a4_optional_settings_have_their_effect(efface: Efface, tiny_sd: Path, group: str, part: str):
    settings = (f"parameter_group={group}", "loss_type_reverse=noise-based", "regularization=true", "train_max_steps=3")
    options = [word for setting in settings for word in ("-s", setting)]
    quick = ("-s", "train_size=2", "-s", "sampling_steps=2", "-s", "base_lr=1e-3", "-s", "batch_size=2")
    Path("logs").mkdir()
    command = ("--method", "ablate", "--to", "star", "--model", tiny_sd, *quick, *options, "-o", "logs/x.safetensors")
    assert efface("erase", "cat", *command).code == 0
    names = [getattr(edit, "parameter", "") for edit in Eraser.load("logs/x.safetensors").edits]
    assert any(part in name for name in names)
    assert group != "cross-attn" or all(part in name for name in names)
    rows = [json.loads(line) for line in Path("logs/x.training/component-0.jsonl").read_text().splitlines()]
    assert len(rows) == 3


def test_a15_a_file_that_names_no_concept_is_not_evaluated(efface: Efface, tiny_sd: Path, delta: Path):
    ended = efface("evaluate", delta, "--model", tiny_sd, "--judge", "clip", "-o", "out")
    assert ended.code == 2
    assert "Nothing says what delta erases; give --request FILE.yaml" in ended.err
    assert not Path("out").exists()


@pytest.fixture
def evaluated(efface: Efface, tiny_sd: Path, tiny_clip: Path) -> Callable[..., Outcome]:
    """Evaluates an eraser of the cat, whose anchor is the dog, by the protocol of Concept Ablation."""

    def evaluate(*arguments: object) -> Outcome:
        scores = ("-s", f"clip={tiny_clip}", "-s", "extractor=emoji-clip", "--judge", f"clip:{tiny_clip}")
        return efface("evaluate", *arguments, "--protocol", "ablation", "--model", tiny_sd, *FEW, *scores)

    erase(open_model(tiny_sd), "cat", "dog").save("cat.safetensors", force=True)
    return evaluate


def test_a13_every_number_of_the_paper_is_in_the_report_and_the_table(evaluated: Callable[..., Outcome]):
    ended = evaluated("cat.safetensors", "-o", "metrics", "--json")
    metrics = ended.json()["erasers"]["cat"]["metrics"]
    names = {"target_clip_score", "target_clip_accuracy", "target_fid", "target_kid", "anchor_fid", "anchor_kid"}
    assert names <= metrics.keys()
    report = json.loads(Path("metrics/report.json").read_text())
    assert report["erasers"]["cat"]["metrics"] == metrics
    with Path("metrics/results.csv").open(newline="") as file:
        rows = {(row["eraser"], row["metric"]): row for row in csv.DictReader(file)}
    assert {metric for eraser, metric in rows if eraser == "cat"} == metrics.keys()
    for name, number in metrics.items():
        assert [float(rows["cat", name][key]) for key in ("value", "low", "high", "n")] == [
            number[key] for key in ("value", "low", "high", "n")
        ]


def test_a11_fid_is_the_distance_to_the_images_of_the_unedited_model(evaluated: Callable[..., Outcome]):
    metrics = evaluated("cat.safetensors", "-o", "metrics", "--json").json()["erasers"]["cat"]["metrics"]
    extractor = open_extractor("emoji-clip")

    def features(model: str, word: str) -> Features:
        rows = Path("metrics/images", model, "metadata.jsonl").read_text().splitlines()
        files = [row["file_name"] for row in map(json.loads, rows) if word in row["prompt"]]
        return extract(extractor, [read_picture(Path("metrics/images", model, name)) for name in files])

    for group, word in (("target", "cat"), ("anchor", "dog")):
        expected = fid(features("cat", word), features("base", word), draws=20).value
        assert metrics[f"{group}_fid"]["value"] == pytest.approx(expected, abs=1e-6)
    assert "biased upwards" in metrics["target_fid"]["note"]
    same = fid(features("base", "dog"), features("base", "dog"), draws=20)
    assert same.value == pytest.approx(0, abs=1e-6)
    assert metrics["target_fid"]["value"] > 1e-3


def test_a9_checkpoints_of_a_folder_are_evaluated_by_their_names(
    evaluated: Callable[..., Outcome], delta: Path, tiny_model: Model
):
    folder = Path("logs/vangogh/checkpoints")
    folder.mkdir(parents=True)
    for name, scale in (("step_100.ckpt", 1.0), ("step_20.ckpt", 0.5), ("last.ckpt", 1.0)):
        state = torch.load(delta, weights_only=True)["state_dict"]
        torch.save({"state_dict": {key: scale * tensor for key, tensor in state.items()}}, folder / name)
    edited = {name: tensor + 0.1 for name, tensor in tiny_model.weights("denoiser") if "to_k" in name}
    torch.save({name.removeprefix("denoiser."): tensor for name, tensor in edited.items()}, folder / "step_30.pt")
    (folder / "step_40.txt").write_text("no checkpoint")
    Path("cat.yaml").write_text("concepts: [{name: cat, guide: dog}]\n")
    command = ("logs", "--request", "cat.yaml")
    answer = evaluated(*command, "--filter", r"step_\d+", "-o", "regular", "--json").json()
    assert list(answer["erasers"]) == ["base", "step_20", "step_30", "step_100"]
    kids = {name: each["metrics"]["target_kid"]["value"] for name, each in answer["erasers"].items() if name != "base"}
    assert len(set(kids.values())) == 3
    answer = evaluated(*command, "--filter", "step_*.ckpt", "-o", "pattern", "--json").json()
    assert list(answer["erasers"]) == ["base", "step_20", "step_100"]


def test_a9_filters_that_cannot_be_used(refused: Callable[..., str], delta: Path):
    Path("logs").mkdir()
    delta.rename("logs/step_1.ckpt")
    command = ("evaluate", "--protocol", "ablation", "--filter")
    assert "it has step_1.ckpt" in refused(*command, "epoch", "logs")
    assert "neither a regular expression" in refused(*command, "step_(", "logs")
    assert "give the folder" in refused(*command, "step", "logs/step_1.ckpt")
    assert "give the folder" in refused(*command, "step", "missing")
    Path("empty").mkdir()
    assert "it has none" in refused(*command, "step", "empty")
