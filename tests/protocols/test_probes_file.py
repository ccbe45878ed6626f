"""Prompts from the challenge's CSV and from plain ones."""

from collections import Counter
from pathlib import Path

import pytest

from efface.errors import BadFile
from efface.generation.prompts import read_prompt_file
from efface.protocols.plan import Probe
from efface.protocols.probes.file import probes_of_file, with_file
from efface.protocols.probes.requests import probes_in_words
from efface.request.record import Concept, Request

HEAD = ["concept_type", "concept_name", *(f"{kind}_prompt_{i}" for kind in ("direct", "indirect") for i in range(1, 6))]
NAMES = ("Golf Ball", "Blue Jay", "Van Gogh")


def challenge(folder: Path) -> Path:
    rows = [",".join([*HEAD, "adversarial_prompt"])]
    for name in NAMES:
        direct = [f'"a {name}, number {i}"' for i in range(1, 6)]
        indirect = [f"something like {name} {i}" for i in range(1, 6)]
        rows.append(",".join(["object", name, *direct, *indirect, f"zxq {name}"]))
    path = folder / "challenge.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def counted(probes: list[Probe]) -> Counter[tuple[str, str]]:
    return Counter((probe.metric, probe.concept) for probe in probes)


def test_the_challenges_columns_are_the_parts_of_its_score(tmp_path: Path) -> None:
    request = Request(concepts=(Concept(name="golf ball", guide="tennis ball", adjacent=("van gogh",)),))
    found = probes_of_file(read_prompt_file(challenge(tmp_path), 7), request, 12)
    assert counted(found) == {
        ("forget", "golf ball"): 12,
        ("indirect", "golf ball"): 6,
        ("adversarial", "golf ball"): 6,
        ("adjacent", "Van Gogh"): 10,
        ("retain", "Blue Jay"): 12,
    }
    forget = [probe for probe in found if probe.metric == "forget"]
    assert [probe.job.prompt for probe in forget[:6]] == [
        *(f"a Golf Ball, number {i}" for i in range(1, 6)),
        forget[0].job.prompt,
    ]
    assert [probe.job.seed for probe in forget] == [7] * 5 + [8] * 5 + [9] * 2
    assert all(probe.guide == "tennis ball" for probe in forget)
    assert all(probe.guide is None for probe in found if probe.metric in ("retain", "adjacent"))
    assert {probe.job.prompt for probe in found if probe.metric == "adversarial"} == {"zxq Golf Ball"}


@pytest.mark.parametrize("name", ["GolfBall", "golf_ball", "Golf ball"])
def test_a_name_is_known_however_it_is_written(tmp_path: Path, name: str) -> None:
    assert ("forget", name) in counted(probes_of_file(read_prompt_file(challenge(tmp_path)), Request.make(name), 5))


def test_every_prompt_is_drawn_at_least_once(tmp_path: Path) -> None:
    found = probes_of_file(read_prompt_file(challenge(tmp_path)), Request.make("golf ball"), 2)
    assert counted(found)["forget", "golf ball"] == 5
    assert len({probe.job.prompt for probe in found if probe.metric == "retain"}) == 20


def test_no_image_is_asked_for_twice(tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text("prompt,concept,seed\na cat,cat,0\na cat,cat,1\nthe cat,cat,0\na cat,cat,1\n")
    jobs = [probe.job for probe in probes_of_file(read_prompt_file(path), Request.make("cat"), 9)]
    assert [(job.prompt, job.seed) for job in jobs] == [
        *(("a cat", 0), ("a cat", 1), ("the cat", 0)),
        *(("a cat", 2), ("a cat", 3), ("the cat", 1)),
        *(("a cat", 4), ("a cat", 5), ("the cat", 2)),
    ]


def test_what_the_file_has_not_comes_from_the_request(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("prompt,concept,evaluation_seed,evaluation_guidance\nthe cat sits,cat,42,5.5\nthe car,car,1,7\n")
    concept = Concept(name="cat", aliases=("kitten",), adversarial=("c4t",))
    request = Request(concepts=(concept,), preserve=("a house",))
    found = with_file(probes_in_words(request, 4, 0), read_prompt_file(path), request, 4)
    assert counted(found) == {
        ("forget", "cat"): 4,
        ("retain", "car"): 4,
        ("indirect", "cat"): 2,
        ("adversarial", "cat"): 2,
    }
    first = found[0].job
    assert (first.prompt, first.seed, first.guidance, first.concept) == ("the cat sits", 42, 5.5, "cat")


def test_prompts_without_a_concept_are_about_the_one_that_was_erased(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na cat on a mat\n")
    assert counted(probes_of_file(read_prompt_file(path), Request.make("cat"), 4)) == {("forget", "cat"): 4}
    with pytest.raises(BadFile, match="add a column 'concept'"):
        probes_of_file(read_prompt_file(path), Request.make(["cat", "dog"]), 4)


def test_a_file_without_the_erased_concept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no prompt for 'cat'"):
        probes_of_file(read_prompt_file(challenge(tmp_path)), Request.make("cat"), 4)
