"""The U&ME challenge entry: its dataset, and what is generated and judged for it."""

from __future__ import annotations

import csv
from pathlib import Path

import efface
from efface.generation.dataset import read_concepts

CHALLENGE = Path(__file__).parents[2] / "examples" / "challenge.csv"
COLUMNS = [
    *("concept_type", "concept_name"),
    *(f"direct_prompt_{i}" for i in range(1, 6)),
    *(f"indirect_prompt_{i}" for i in range(1, 6)),
    "adversarial_prompt",
]


def challenge_rows() -> list[dict[str, str]]:
    with CHALLENGE.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert reader.fieldnames == COLUMNS
    return rows


def test_u11_the_example_has_the_challenges_columns() -> None:
    rows = challenge_rows()
    names = [concept.name for concept in read_concepts(CHALLENGE)]
    assert len(names) == len(rows) == 20
    for row in rows:
        name = row["concept_name"]
        assert all(row[column] for column in COLUMNS)
        assert all(name in row[f"direct_prompt_{i}"] for i in range(1, 6))
        assert not any(name in row[column] for column in COLUMNS[7:])


def test_u11_the_model_draws_the_concepts_of_the_example() -> None:
    rows = challenge_rows()
    images = efface.generate([row["direct_prompt_3"] for row in rows], steps=10).images
    found = 0
    for image, row in zip(images, rows, strict=True):
        (verdict,) = efface.judge([image], row["concept_name"]).verdicts
        found += verdict.answer == "yes"
    assert found >= 18
