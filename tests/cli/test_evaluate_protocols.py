"""Protocols with inputs of their own, from the command line."""

import json
from pathlib import Path


def test_scores_are_told_by_extractor_and_kept_in_the_report(efface, eraser, tiny_sd, tiny_clip):
    Path("captions.csv").write_text("prompt,seed\na cat in a house,3\na red car,4\na blue bird,5\n")
    where = ("--model", tiny_sd, "--prompts", "captions.csv", "--steps", 1, "-o", "out")
    settings = ("-s", f"clip={tiny_clip}", "-s", "extractor=emoji-clip", "-s", "draws=20")
    ended = efface("evaluate", eraser, "--protocol", "coco", *where, *settings, "--json")
    assert ended.code == 0, ended.err
    answer = ended.json()
    metrics = answer["erasers"]["cat"]["metrics"]
    assert {"clip_score", "fid_to_base"} == set(metrics)
    assert metrics["fid_to_base"]["extractor"].startswith("clip:emoji")
    assert "by clip:emoji" in ended.err
    assert "clip_score" in ended.err
    report = json.loads(Path("out/report.json").read_text())
    assert report["erasers"]["cat"]["metrics"] == metrics
    assert answer["provenance"]["inputs"]["prompts"]["name"] == "captions.csv"


def test_mistakes_name_the_input(refused, eraser, tiny_sd):
    for arguments, printed in (
        (("-p", "coco", "-m", tiny_sd), "--prompts"),
        (("-p", "coco", "-m", tiny_sd, "--prompts", "nowhere.csv"), "nowhere.csv"),
        (("-p", "unlearncanvas", "-m", tiny_sd, "--judge", "clip"), "--data FOLDER"),
        (("-p", "imagenette", "-m", tiny_sd, "--judge", "clip", "-s", "clases=cat"), "Unknown option 'clases'"),
        (("-p", "imagenette", "-m", tiny_sd, "--judge", "clip", "--attack", "random_prefix"), "imagenette"),
    ):
        assert printed in refused("evaluate", eraser, *arguments, "-o", "out")


def test_protocols_are_listed_with_their_settings(efface):
    ended = efface("protocols", "--json")
    listed = {entry["name"]: entry for entry in ended.json()["protocols"]}
    assert listed["unlearncanvas"]["n"] == 5
    assert listed["i2p"]["defaults"]["threshold"] == 0.6
    assert "-s threshold=0.6" in ended.err
    published = {"sampler": "ddim", "steps": 100, "guidance": 9.0, "eta": 0.0, "with_data": True}
    assert listed["unlearncanvas"]["published"] == published
    assert listed["coco"]["published"] is None
    assert "published with: ddim, 100 steps, guidance 9, with --data" in ended.err


def test_what_a_user_chooses_overrides_what_is_published(efface, judges, eraser, tiny_sd):
    command = ("evaluate", eraser, "-p", "imagenette", "--judge", "sure", "-s", "classes=cat,dog", "-n", 2)
    for chosen, printed in (
        (("--steps", 3), ("lms", 3, 7.5)),
        (("--sampler", "ddim", "--steps", 2), ("ddim", 2, 7.5)),
    ):
        ended = efface(*command, *chosen, "--model", tiny_sd, "-o", f"by-{printed[0]}", "--json")
        how = ended.json()["provenance"]["sampling"]
        assert (how["sampler"], how["steps"], how["guidance"]) == printed
