import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator, ValidationError

from efface.errors import BadFile
from efface.generation import Job
from efface.protocols import FailedImage
from efface.report import document, schema, write_report

CASES = {
    "one eraser": {},
    "several erasers": {"erasers": 3},
    "an error": {"error": "broken"},
    "undecided": {"undecided": 2},
    "distances": {"distances": True, "erasers": 2},
    "foreign names": {"concept": "<script>", "guide": '"><img src=x onerror=alert(1)>'},
}


def check(content):
    Draft202012Validator(schema()).validate(content)


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_document_keeps_to_the_published_schema(evaluation, tmp_path, case):
    write_report(evaluation(**case), tmp_path)
    check(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))


def test_an_image_without_a_verdict_has_no_score(evaluation, tmp_path):
    content = json.loads(json.dumps(document(evaluation(error="broken"), tmp_path), allow_nan=False))
    assert content["shots"]["eraser"][-1]["found"] is None
    assert content["shots"]["eraser"][-1]["score"] is None
    assert content["shots"]["eraser"][-1]["error"] == "broken"


def test_an_image_that_nothing_is_asked_of_is_listed_with_the_reason(evaluation, tmp_path):
    made = evaluation()
    spoilt = replace(made.erasers["eraser"], failed_images=(FailedImage(Job("a red car", 7), "broken"),), errors=1)
    content = document(replace(made, erasers={**made.erasers, "eraser": spoilt}), tmp_path)
    check(content)
    assert content["unread"] == {"base": [], "eraser": [{"prompt": "a red car", "seed": 7, "error": "broken"}]}
    del content["unread"]["eraser"][0]["error"]
    with pytest.raises(ValidationError):
        check(content)


def test_a_distance_names_its_extractor(evaluation, tmp_path):
    content = document(evaluation(distances=True), tmp_path)
    assert content["erasers"]["eraser"]["metrics"]["kid"]["extractor"] == "efficientnet-1"
    del content["erasers"]["eraser"]["metrics"]["kid"]["extractor"]
    with pytest.raises(ValidationError):
        check(content)


def test_destinations_keep_to_the_schema_rate_by_rate(evaluation, tmp_path):
    made = evaluation()
    by = {"adversarial": {"cat": {"broken": 2, "concept": 1}}}
    made = replace(
        made,
        erasers={
            name: replace(result, destinations={**result.destinations, **by}) for name, result in made.erasers.items()
        },
    )
    content = document(made, tmp_path)
    check(content)
    assert content["erasers"]["eraser"]["went_by"] == by
    for went in (content["erasers"]["eraser"]["went"], content["erasers"]["eraser"]["went_by"]["adversarial"]):
        went["cat"]["elsewhere"] = 1
        with pytest.raises(ValidationError, match="elsewhere"):
            check(content)
        del went["cat"]["elsewhere"]


def test_a_certificate_keeps_to_the_schema_too(evaluation, tmp_path):
    bounds = {"cat": {"free": 0.0, "text": None, "ceiling": 0.9}}
    made = evaluation()
    certified = {**made.erasers, "eraser": replace(made.erasers["eraser"], certificate=bounds)}
    content = document(replace(made, erasers=certified), tmp_path)
    check(content)
    assert content["erasers"]["eraser"]["certificate"] == bounds
    assert content["erasers"]["base"]["certificate"] is None
    content["erasers"]["eraser"]["certificate"]["cat"]["other"] = 1.0
    with pytest.raises(ValidationError, match="other"):
        check(content)


def test_comparisons_keep_to_the_schema_too(evaluation, tmp_path):
    content = document(evaluation(erasers=2), tmp_path)
    forget = content["comparisons"][0]
    assert (forget["first"], forget["second"], forget["metric"], forget["n"]) == ("eraser", "second", "forget", 20)
    assert forget["value"] == pytest.approx(-8 / 20)
    assert forget["p"] == pytest.approx(2 * 0.5**8)
    del forget["p"]
    with pytest.raises(ValidationError):
        check(content)
    assert document(evaluation(), tmp_path)["comparisons"] == []


def test_pictures_are_named_from_the_reports_folder_and_never_by_their_place_on_disk(evaluation, tmp_path):
    made = evaluation()
    assert document(made, tmp_path)["shots"]["base"][0]["file"] == "images/base-forget-0.png"
    assert document(made, tmp_path / "elsewhere")["shots"]["base"][0]["file"] == "base-forget-0.png"
    assert str(tmp_path) not in write_report(made, tmp_path).read_text(encoding="utf-8")


def test_nothing_half_written_stays_behind(evaluation, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(BadFile, match="blocked"):
        write_report(evaluation(), blocked)
    target = tmp_path / "report"
    write_report(evaluation(), target)
    assert sorted(path.name for path in target.iterdir()) == ["report.html", "report.json", "results.csv"]
