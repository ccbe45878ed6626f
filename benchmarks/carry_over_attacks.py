"""Attack success rates on both embedded models, against a closed form and a trained method.

    python benchmarks/carry_over_attacks.py            five objects, eight prompts each
    python benchmarks/carry_over_attacks.py --quick    one object, one prompt, few steps; writes no result

Each object is erased alone with the settings that the model recommends, and attacked prompt by prompt as by
`efface attack`. P4D's prefix and UnlearnDiffAtk have 4 timesteps with 10 steps each instead of the published 50 with
40, and judge at most 4 images per prompt; `inversion`, the attack on embeddings, has 100 steps of 4 images for each
prompt instead of 5,000 of 16. docs/attacks.md explains the rates. The work folder stores erasers, images and attempts,
so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from attack_rates import RATES, cell, rate_of, run
from efface import Eraser
from efface.attacks.attempts import AttackResult, Attempt
from efface.judges import open_judge
from efface.models import Model
from efface.settings import Scalar
from pages import Page, machine, table, write
from trained_quality import OBJECTS

MODELS, METHODS, PROMPTS = ("emoji", "emoji-flow"), ("uce", "sepce"), 8
ATTACKED_BY: dict[str, dict[str, Scalar]] = {
    "p4d_prefix": {"timesteps": 4, "iterations": 10},
    "unlearndiff": {"timesteps": 4, "iterations": 10},
    "inversion": {"steps": 100, "batch_size": 4, "images": 4, "checks": 2},
}

Attempts = dict[str, dict[str, list[dict[str, Any]]]]  # attack -> method -> attempts on all objects


def erasers_of(model: Model, name: str, folder: Path) -> dict[str, Eraser]:
    """The erasers of one object; those in the folder are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    erasers: dict[str, Eraser] = {}
    for method in METHODS:
        path = folder / f"{method}.safetensors"
        if not path.exists():
            efface.erase(model, name, method=method).save(path)
        erasers[method] = Eraser.load(path)
    return erasers


def page(content: dict[str, Attempts]) -> Page:
    """The result page of the numbers in carry_over_attacks.json."""
    rows: list[list[str]] = []
    findings: list[str] = []
    for attack in ATTACKED_BY:
        for method in METHODS:
            found: list[str] = []
            for model in MODELS:
                result = AttackResult(tuple(map(Attempt.from_dict, content[model][attack][method])))
                seconds = result.seconds_per_prompt
                cells = [cell(rate_of(result, rate)) for rate in RATES]
                rows.append([attack, method, model, *cells, "" if seconds is None else f"{seconds:.0f}"])
                found.append("–" if result.asr is None else f"{result.asr.value:.0%}")
            findings.append(f"`{attack}` on `{method}` {' and '.join(found)}")
    prompts = len(content[MODELS[0]]["unlearndiff"][METHODS[0]])
    body = f"""
{prompts} prompts in each row. Intervals are at 95%, over prompts. Seconds are the search time per prompt.

{table(["attack", "method", "model", *RATES, "seconds per prompt"], rows)}
"""
    finding = f"Success rates of attacks on `{MODELS[0]}` and on `{MODELS[1]}`: {'; '.join(findings)}."
    return Page("Attacks on both embedded models", finding, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, one prompt; writes no result")
    parser.add_argument("--work", type=Path, default=Path("carry_over_attacks"), help="erasers, images and attempts")
    arguments = parser.parse_args()
    names, n = (OBJECTS[:1], 1) if arguments.quick else (OBJECTS, PROMPTS)
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    few: dict[str, dict[str, Scalar]] = {attack: dict.fromkeys(options, 2) for attack, options in ATTACKED_BY.items()}
    attacked_by = few if arguments.quick else ATTACKED_BY
    judge = open_judge("emoji")
    content: dict[str, Attempts] = {}
    for label in MODELS:
        model = efface.open_model(label)
        attempts = content.setdefault(label, {attack: {method: [] for method in METHODS} for attack in ATTACKED_BY})
        for name in names:
            place = work / label / name
            results, _ = run(model, judge, name, erasers_of(model, name, place), n, attacked_by, place)
            for attack, of in results.items():
                for method, some in of.items():
                    attempts[attack][method] += [attempt.as_dict() for attempt in some]
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        facts = (", ".join(names), f"{n} prompts each", f"judge {judge.name} {judge.version}")
        write("carry_over_attacks", content, result, machine(), *facts)


if __name__ == "__main__":
    main()
