import json
from dataclasses import replace

import pytest

from efface.errors import BadFile
from efface.report import document, schema, write_report

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}


def check(value, rule, root):
    """Enough of JSON schema to hold the document to it: types, required and known keys, enums, references."""
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in rule:
        errors = []
        for option in rule["anyOf"]:
            try:
                return check(value, option, root)
            except AssertionError as error:
                errors.append(error)
        raise AssertionError(errors)
    if "enum" in rule:
        assert value in rule["enum"]
    if "const" in rule:
        assert value == rule["const"]
    if "type" in rule:
        names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        assert any(isinstance(value, TYPES[name]) for name in names), (value, names)
    if isinstance(value, dict):
        assert set(rule.get("required", [])) <= set(value)
        for key, item in value.items():
            if "propertyNames" in rule:
                check(key, rule["propertyNames"], root)
            known = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
            assert known is not False, f"{key} is not in the schema"
            check(item, known, root)
    if isinstance(value, list):
        for item in value:
            check(item, rule.get("items", {}), root)
    return None


def test_the_document_keeps_to_the_published_schema(evaluation, tmp_path):
    content = json.loads(json.dumps(document(evaluation(error="broken"), tmp_path), allow_nan=False))
    check(content, schema(), schema())
    assert content["shots"]["eraser"][-1]["found"] is None
    assert content["shots"]["eraser"][-1]["score"] is None


def test_a_certificate_keeps_to_the_schema_too(evaluation, tmp_path):
    bounds = {"cat": {"free": 0.0, "text": None, "ceiling": 0.9}}
    content = document(replace(evaluation(), certificates={"eraser": bounds}), tmp_path)
    check(content, schema(), schema())
    assert content["erasers"]["eraser"]["certificate"] == bounds
    assert content["erasers"]["base"]["certificate"] is None
    content["erasers"]["eraser"]["certificate"]["cat"]["other"] = 1.0
    with pytest.raises(AssertionError, match="other"):
        check(content, schema(), schema())


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
    assert sorted(path.name for path in target.iterdir()) == ["report.html", "report.json"]
