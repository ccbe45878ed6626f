import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from efface import Eraser
from efface.files import slug
from efface.metrics.rates import rate_with_interval, wilson
from support import two_shades


def test_erase_writes_the_eraser_and_answers_as_agreed(efface, tiny_sd):
    answer = efface("erase", "cat", "dog", "--to", "horse", "--model", tiny_sd, "--json").json()
    assert set(answer) == {
        "eraser",
        "method",
        "concepts",
        "kind_of_edit",
        "rank",
        "bytes",
        "guide_from",
        "settings_from",
        "certificate",
        "seconds",
    }
    assert answer["guide_from"] == {"cat": "user", "dog": "user"}
    assert answer["eraser"] == "cat-dog-uce.safetensors"
    assert answer["concepts"] == ["cat", "dog"]
    assert set(answer["seconds"]) == {"total", "solve"}
    loaded = Eraser.load(answer["eraser"])
    assert [concept.guide for concept in loaded.request.concepts] == ["horse", "horse"]
    assert (loaded.rank, loaded.nbytes) == (answer["rank"], answer["bytes"])


def test_settings_reach_the_method_as_numbers(efface, tiny_sd):
    Path("keep.txt").write_text("horse\n\na house\n")
    arguments = ("--preserve-file", "keep.txt", "-s", "lamb=1e-3", "-s", "variant=window", "-o", "x.safetensors")
    assert efface("erase", "cat", "--model", tiny_sd, *arguments).code == 0
    request = Eraser.load("x.safetensors").request
    assert request.options == {"lamb": 0.001, "variant": "window"}
    assert request.preserve == ("horse", "a house")


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("prompt\na car\n\na car\n", ("a car",)),
        ("case_number,artist,prompt\n0,Van Gogh,art by Van Gogh\n1,van gogh,picture\n", ("Van Gogh", "van gogh")),
        ('Name,id\n"horse, red",1\n house ,2\n', ("horse, red", "house")),
        ("\ufeffconcept;x,concept\n1,star\n", ("star",)),
        ('id,concept\n1,red\u2028car\n2,horse\fbird\n3,"a\nhouse"\n', ("red\u2028car", "horse\fbird", "a\nhouse")),
    ],
)
def test_a_preserve_file_may_be_a_table(efface, tiny_sd, content, stored):
    Path("keep.csv").write_text(content, encoding="utf-8")
    assert efface("erase", "cat", "--preserve-file", "keep.csv", "--model", tiny_sd, "-o", "x.safetensors").code == 0
    assert Eraser.load("x.safetensors").request.preserve == stored


def test_a_preserve_file_may_be_long(efface, tiny_sd):
    lines = [f"{one} {two} {number}" for one in ("red", "blue") for two in ("car", "bird") for number in range(500)]
    Path("keep.txt").write_text("\n".join(lines))
    arguments = ("--preserve-file", "keep.txt", "--preserve", lines[0], "--model", tiny_sd, "-o", "x.safetensors")
    assert efface("erase", "cat", *arguments).code == 0
    eraser = Eraser.load("x.safetensors")
    assert eraser.request.preserve == tuple(lines)
    assert max(tensor.numel() for tensor in eraser.inputs.values()) == 32 * 32  # their Gram matrix


def test_a_request_file_and_what_the_command_line_adds(efface, tiny_sd):
    Path("request.yaml").write_text("concepts: [{name: cat, guide: dog}]\npreserve: [horse]\noptions: {lamb: 1}\n")
    arguments = ("--preserve", "car", "-s", "erase_scale=2", "-o", "x.safetensors")
    assert efface("erase", "--config", "request.yaml", "--model", tiny_sd, *arguments).code == 0
    request = Eraser.load("x.safetensors").request
    assert request.preserve == ("horse", "car")
    assert request.options == {"lamb": 1, "erase_scale": 2}


def test_force_replaces(efface, tiny_sd, eraser):
    assert efface("erase", "dog", "--model", tiny_sd, "-o", eraser, "--force").code == 0
    assert Eraser.load(eraser).concepts == ("dog",)


def test_generate_draws_once_and_then_finds_its_work_done(efface, tiny_sd, eraser):
    command = ("generate", "a cat", "-n", 2, "--steps", 2, "-e", eraser, "--model", tiny_sd, "-o", "images", "--json")
    answer = efface(*command).json()
    assert len(answer["images"]) == 2
    files = {path: path.stat().st_mtime_ns for path in Path("images").glob("*.png")}
    assert len(files) == 2
    assert efface(*command).json()["images"] == answer["images"]
    assert {path: path.stat().st_mtime_ns for path in Path("images").glob("*.png")} == files


def test_judge_writes_verdicts_and_counts(efface, judges):
    Path("images").mkdir()
    for name in ("a", "b"):
        two_shades((16, 16), (255, 0, 0)).save(f"images/{name}.png")
    answer = efface("judge", "images", "--judge", "sure", "-q", "cat", "-q", "dog", "--json").json()
    assert answer["questions"]["cat"]["yes"] == 2
    assert answer["questions"]["dog"]["rate"]["n"] == 2
    assert Path(answer["verdicts"]).is_file()


COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def judged_folder(folder: str, rows: Sequence[tuple[str | None, str]]) -> None:
    """Images of one colour each, and of those with a prompt its row."""
    Path(folder).mkdir()
    lines: list[str] = []
    for i, (prompt, colour) in enumerate(rows):
        two_shades((16, 16), COLOURS[colour]).save(f"{folder}/{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png"} | ({} if prompt is None else {"prompt": prompt})))
    Path(folder, "metadata.jsonl").write_text("\n".join(lines) + "\n")


def test_the_interval_of_a_judged_folder_is_over_its_prompts(efface, red):
    prompts = [("a cat", ["red"] * 9 + ["blue"]), ("a dog", ["red"] * 2 + ["blue"] * 8), ("", ["blue"] * 5)]
    many = [(prompt, colour) for prompt, colours in prompts for colour in colours]
    judged_folder("many", many)
    judged_folder("one", [("a cat", colour) for _, colour in many])
    judged_folder("foreign", [(None, colour) for _, colour in many])
    judged_folder("mixed", [*many[:20], *((None, "blue") for _ in range(5))])

    def rate(folder: str) -> dict[str, float]:
        return efface("judge", folder, "--judge", "red", "-q", "cat", "--json").json()["questions"]["cat"]["rate"]

    clusters = [[float(colour == "red") for colour in colours] for _, colours in prompts]
    assert rate("many") == rate_with_interval(clusters).as_dict()
    assert rate("one") == rate("foreign") == wilson(11, 25).as_dict()
    assert rate("mixed") == rate_with_interval([*clusters[:2], *([0.0] for _ in range(5))]).as_dict()


@pytest.mark.parametrize("judge", ["failing", "numberless"])
def test_a_failing_judge_is_an_error_and_never_an_answer(efface, judges, eraser, tiny_sd, judge):
    Path("images").mkdir()
    Image.new("RGB", (16, 16), "red").save("images/a.png")
    ended = efface("judge", "images", "--judge", judge, "-q", "cat", "--json")
    assert ended.code == 1
    assert ended.json()["questions"]["cat"] == {
        "yes": 0,
        "no": 0,
        "undecided": 0,
        "error": 1,
        "broken": 0,
        "rate": None,
    }
    ended = efface("evaluate", eraser, "--judge", judge, "-n", 2, "--steps", 2, "--model", tiny_sd, "--json")
    assert ended.code == 1
    assert ended.json()["erasers"]["cat"]["metrics"] == {}
    assert ended.json()["erasers"]["cat"]["errors"] > 0


def test_evaluate_answers_as_agreed_and_writes_the_report(efface, judges, eraser, tiny_sd):
    command = ("evaluate", eraser, "--judge", "sure", "-n", 2, "--steps", 2, "--model", tiny_sd, "-o", "out", "--json")
    answer = efface(*command).json()
    assert answer["protocol"] == "err"
    assert set(answer["erasers"]) == {"base", "cat"}
    assert set(answer["erasers"]["cat"]["metrics"]["forget"]) == {"value", "low", "high", "n"}
    assert {"name", "version", "recall", "false_positive_rate"} <= set(answer["judge"])
    assert Path("out/report.html").is_file()
    assert json.loads(Path("out/report.json").read_text())["shots"]["cat"]
    again = efface(*command)
    assert again.code == 0
    assert "complete result of this command, see out/report.html" in again.err
    assert again.json() == answer
    other = efface(*command[:-1], "--seed", 1)
    assert (other.code, "with other seed" in other.err) == (2, True)
    Path("out/report.html").unlink()  # as an interrupted run leaves it
    resumed = efface(*command).json()
    assert resumed["erasers"] == answer["erasers"]
    other = efface(*command, "--seed", 5)
    assert other.code == 2
    assert "other work" in other.err


def test_evaluate_shows_the_certificate(efface, judges, tiny_sd):
    made = efface(
        "erase", "cat", "--to", "dog", "--certify", "--model", tiny_sd, "-o", "x.safetensors", "--json"
    ).json()
    command = ("evaluate", "x.safetensors", "--judge", "sure", "-n", 2, "--steps", 1, "--model", tiny_sd, "-o", "out")
    assert efface(*command, "--json").json()["erasers"]["x"]["certificate"] == made["certificate"]
    assert "How far can it be undone?" in Path("out/report.html").read_text()


def test_inspect_tells_what_is_in_the_file(efface, tiny_sd):
    assert efface("erase", "cat", "horse", "--to", "dog", "--model", tiny_sd, "-o", "x.safetensors").code == 0
    answer = efface("inspect", "x.safetensors", "--json").json()
    assert answer["request"]["concepts"][0]["guide"] == "dog"
    assert [part["concepts"] for part in answer["components"]] == [["cat"], ["horse"]]
    assert all(part["rank"] >= 1 for part in answer["components"])
    assert answer["base"]["family"] == "sd"


def test_inspect_tells_what_a_model_has(efface, tiny_sd):
    answer = efface("inspect", tiny_sd, "--json").json()
    assert answer["family"] == "sd"
    assert answer["text_parameters"]
    assert all("attn2" in name for name in answer["text_parameters"])


@pytest.mark.parametrize(
    ("command", "known"), [("methods", "uce"), ("judges", "clip"), ("attacks", "random_prefix"), ("protocols", "err")]
)
def test_lists_name_what_there_is(efface, command, known):
    assert known in [entry["name"] for entry in efface(command, "--json").json()[command]]
    assert known in efface(command).out
    assert [entry["name"] for entry in efface(command, known, "--json").json()[command]] == [known]


def test_people_read_standard_error_when_programs_read_standard_output(efface, tiny_sd):
    ended = efface("inspect", tiny_sd, "--json")
    assert "family" in ended.err
    assert "family" in efface("inspect", tiny_sd).out


def test_certify_says_how_far_each_concept_can_come_back(efface, tiny_sd):
    ended = efface(
        "erase", "cat", "dog", "--to", "horse", "--model", tiny_sd, "--certify", "--json", "-o", "x.safetensors"
    )
    answer = ended.json()["certificate"]
    assert set(answer) == {"cat", "dog"}
    assert set(answer["cat"]) == {"free", "text", "ceiling"}
    assert answer["cat"]["free"] == 0  # uce can be undone by some embedding
    assert "0.0% by any embedding" in ended.err
    assert efface("inspect", "x.safetensors", "--json").json()["certificate"] == answer
    tensor = ("-s", "variant=window", "-s", "technique=tensor", "-o", "y.safetensors", "--certify", "--json")
    ended = efface("erase", "cat", "--model", tiny_sd, *tensor)
    assert ended.json()["certificate"] is None
    assert "no certificate" in ended.err


def test_whoever_reads_a_certificate_reads_what_it_does_not_cover(efface, tiny_sd):
    ended = efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "--certify", "-o", "x.safetensors")
    assert "not the picture" in ended.out
    assert "fine-tuned" in ended.out
    assert "not the picture" in efface("inspect", "x.safetensors").out
    assert "not the picture" not in efface("inspect", tiny_sd).out


def test_an_eraser_that_there_is_can_be_certified(efface, refused, eraser, tiny_sd, other_sd):
    assert Eraser.load(eraser).certificate is None
    command = ("inspect", eraser, "--certify", "--model", tiny_sd, "--json")
    answer = efface(*command, "-o", "y.safetensors").json()["certificate"]
    assert answer["cat"]["ceiling"] > 0
    certified = Eraser.load("y.safetensors")
    assert certified.certificate == answer
    assert certified.hash == Eraser.load(eraser).hash
    assert efface(*command, "-o", "y.safetensors").json()["certificate"] == answer
    efface("erase", "dog", "--model", tiny_sd, "-o", "other.safetensors")
    assert "already exists" in refused(*command, "-o", "other.safetensors")
    assert "differently" in refused("inspect", eraser, "--certify", "--model", other_sd)
    assert "add --certify" in refused("inspect", eraser, "-o", "z.safetensors")
    assert "eraser's file" in refused("inspect", tiny_sd, "--certify")
    weights = ("-s", "variant=window", "-s", "technique=tensor", "-o", "w.safetensors")
    assert efface("erase", "cat", "--model", tiny_sd, *weights).code == 0
    ended = efface("inspect", "w.safetensors", "--certify", "--model", tiny_sd, "-o", "z.safetensors")
    assert "A weight edit has no certificate" in ended.out
    assert not Path("z.safetensors").exists()


def test_certified_comes_with_its_certificate_and_rece_takes_options_of_uce(efface, tiny_sd):
    answer = efface("erase", "cat", "--to", "dog", "--model", tiny_sd, "--method", "certified", "--json").json()
    assert 0 < answer["certificate"]["cat"]["free"] <= answer["certificate"]["cat"]["ceiling"]
    options = ("-s", "uce.lamb=0.2", "-s", "epochs=2", "-o", "x.safetensors")
    assert efface("erase", "cat", "--model", tiny_sd, "--method", "rece", *options).code == 0
    assert Eraser.load("x.safetensors").provenance["settings"]["uce"]["lamb"] == 0.2


def test_names_never_become_paths():
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("Crème brûlée") == "creme-brulee"
    assert slug("猫") == "concept"
    assert "/" not in slug("a/b\\c")


def test_the_options_of_the_runtime_reach_the_model(efface, tiny_sd):
    made = efface("erase", "cat", "--model", tiny_sd, "--dtype", "bf16", "-o", "half.safetensors", "--json").json()
    assert made["runtime"] == {"dtype": "bfloat16"}
    assert "runtime" not in efface("erase", "cat", "--model", tiny_sd, "-o", "plain.safetensors", "--json").json()
    options = ("--dtype", "bf16", "--offload", "model", "--quantize", "fp8", "--model", tiny_sd, "--json")
    image = efface("generate", "a cat", "-e", "plain.safetensors", "--steps", 1, "-o", "images", *options)
    assert image.code == 0, image.err
    row = json.loads(Path("images/metadata.jsonl").read_text().splitlines()[0])
    assert row["precision"] == "cpu bfloat16 fp8"
