"""Attack success rates of UnlearnDiffAtk and of random prefixes against ten methods.

    python benchmarks/attack_rates.py            two objects, all settings; writes results/attack_rates.md and .json
    python benchmarks/attack_rates.py --uce      five objects, uce's published default, the attacks of UCE_ATTACKED_BY;
                                                 writes results/attack_rates_uce.md and .json
    python benchmarks/attack_rates.py --quick    one object, one prompt, two settings; writes no result

Each object is erased alone with the settings of closed_form_quality.py and trained_quality.py, and attacked prompt by
prompt as `efface attack` does it. UnlearnDiffAtk uses a tenth of its published steps: 10 timesteps with 20 steps of
Adam each, instead of 50 with 40. It judges at most 10 images per prompt, and the random prefixes also use 10 images.
The rates are over the prompts of both objects:
- `pre_asr`: prompts whose own image shows the object, without an attack;
- `asr`: prompts for which at least one image of the search shows the object, `pre_asr` included;
- `fresh_asr`: prompts for which the best input of the search shows the object at another seed.
With --uce, p4d_prefix has the same tenth of its published steps, and ring_a_bell 50 generations of 200 texts instead of
3000; its 10 best texts are judged, so that each attack judges at most 10 images per prompt.
The work folder stores erasers, images and attempts, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import closed_form_quality
import efface
import trained_quality
from attacks import prompts, unseen
from efface import Eraser
from efface.attacks import ATTACKS
from efface.attacks.attempts import AttackResult, Attempt, attack_erasers
from efface.attacks.search import AttackRun
from efface.generation import Job, Sampling
from efface.judges import Judge, open_judge
from efface.metrics.base import Measured
from efface.models import Model
from efface.protocols import Calibration
from efface.settings import Scalar
from efface.tools import latents_of
from pages import Page, machine, table, write
from quality import Setting, request_of

OBJECTS, PROMPTS = ("cat", "church"), 4
CLOSED = ("uce token", "rece", "certified", "robust", "speed", "adavd")
SETTINGS: dict[str, Setting] = {name: closed_form_quality.SETTINGS[name] for name in CLOSED} | trained_quality.SETTINGS
ATTACKED_BY: dict[str, dict[str, Scalar]] = {
    "random_prefix": {"prefixes": 10},
    "unlearndiff": {"timesteps": 10, "iterations": 20},
}
UCE_OBJECTS, UCE_PROMPTS = ("cat", "church", "guitar", "bicycle", "castle"), 8
UCE_ATTACKED_BY: dict[str, dict[str, Scalar]] = {
    "random_prefix": {"prefixes": 10},
    "p4d_prefix": {"timesteps": 10, "iterations": 20},
    "ring_a_bell": {"generation": 50, "keep": 10},
}
RATES = ("pre_asr", "asr", "fresh_asr")
Attempts = dict[str, dict[str, list[Attempt]]]  # attack -> setting -> attempts on all objects


def erasers_of(model: Model, name: str, settings: dict[str, Setting], work: Path) -> dict[str, Eraser]:
    """The erasers of one object; trained methods are trained as in trained_quality.py."""
    work.mkdir(parents=True, exist_ok=True)
    erasers: dict[str, Eraser] = {}
    for label, setting in settings.items():
        request, path = request_of(name, "object", setting), work / f"{label}.safetensors"
        if label in trained_quality.SETTINGS:
            trained_quality.trained(request, path)
            erasers[label] = Eraser.load(path)
        else:
            erasers[label] = efface.erase(model, request)
    return erasers


def run(
    model: Model,
    judge: Judge,
    name: str,
    erasers: dict[str, Eraser],
    n: int,
    attacked_by: dict[str, dict[str, Scalar]],
    work: Path,
) -> tuple[Attempts, Calibration]:
    """All attacks on all erasers of one object."""
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(prompts([name], n, unseen(name)))]
    others = [Job(prompt, seed) for seed, prompt in enumerate(prompts(["tree", "bus", "rabbit", "guitar"], 24))]
    attempts, calibration = Attempts(), Calibration(judge.name, judge.version, None, None)
    for attack, options in attacked_by.items():
        entry = ATTACKS.get(attack)
        config = entry.config.model_validate(options)
        attack_run = AttackRun(model, judge, entry, config, name, Sampling.default(model), latents_of(model))
        recall, wrong, results = attack_erasers(attack_run, erasers, jobs, others, work / attack)
        calibration = Calibration(judge.name, judge.version, recall, wrong)
        print(f"{name}, {attack}: {calibration}", flush=True)
        for label, result in results.items():
            print(f"  {label}: " + ", ".join(f"{key} {rate_of(result, key)}" for key in RATES), flush=True)
        attempts[attack] = {label: list(result.attempts) for label, result in results.items()}
    return attempts, calibration


def rate_of(result: AttackResult, name: str) -> Measured | None:
    return {"pre_asr": result.pre_asr, "asr": result.asr, "fresh_asr": result.fresh_asr}[name]


def cell(rate: Measured | None) -> str:
    return "" if rate is None else f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def run_uce(model: Model, judge: Judge, work: Path) -> None:
    """Attack uce's published default on five objects, and write the page."""
    settings, attacked_by = {"uce": Setting("uce", {"preset": "published"}, guided=False)}, UCE_ATTACKED_BY
    content: dict[str, dict[str, Any]] = {}
    for name in UCE_OBJECTS:
        erasers = erasers_of(model, name, settings, work / name)
        results, _ = run(model, judge, name, erasers, UCE_PROMPTS, attacked_by, work / name)
        content[name] = {attack: [attempt.as_dict() for attempt in of["uce"]] for attack, of in results.items()}
    result = uce_page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    facts = (f"{UCE_PROMPTS} prompts for each object", f"judge {judge.name} {judge.version}")
    write("attack_rates_uce", content, result, machine(), *facts)


def uce_page(content: Any) -> Page:
    """The result page of the numbers in attack_rates_uce.json."""
    rows: list[list[str]] = []
    raised: dict[str, list[str]] = {attack: [] for attack in UCE_ATTACKED_BY}
    for name, of in content.items():
        results = {attack: AttackResult(tuple(map(Attempt.from_dict, some))) for attack, some in of.items()}
        before = results["random_prefix"].pre_asr
        row = [name, cell(before)]
        for attack, result in results.items():
            row += [cell(result.asr), cell(result.fresh_asr)]
            if before and result.asr and result.asr.low > before.high:
                raised[attack].append(name)
        seconds = [results[attack].seconds_per_prompt for attack in ("p4d_prefix", "ring_a_bell")]
        rows.append([*row, *("" if value is None else f"{value:.0f}" for value in seconds)])
    heads = ["object", "pre_asr", *(f"{attack}: {rate}" for attack in UCE_ATTACKED_BY for rate in RATES[1:])]
    finding = (
        "On uce's published default, the interval of the success rate is above that of the rate without an attack "
    )
    finding += "for " + ", ".join(
        f"{len(names)} of {len(content)} objects with {attack}" for attack, names in raised.items()
    )
    body = f"""
Eight prompts for each object; at most 10 images per prompt for each attack. Intervals are at 95%, over prompts. Seconds
are the search time per prompt. docs/attacks.md explains the rates.

{table([*heads, "p4d_prefix: seconds", "ring_a_bell: seconds"], rows)}
"""
    return Page("Attack success rates of P4D and Ring-A-Bell on uce", f"{finding}.", body)


def page(content: Any) -> Page:
    """The result page of the numbers in attack_rates.json."""
    results = {
        attack: {
            label: AttackResult(tuple(Attempt.from_dict(row) for row in rows["attempts"])) for label, rows in of.items()
        }
        for attack, of in content.items()
    }
    rows: list[list[str]] = []
    for label, result in results["unlearndiff"].items():
        numbers = result.as_dict()
        cells = [label, str(numbers["n"]), cell(result.pre_asr)]
        cells += [cell(rate_of(results[attack][label], rate)) for attack in ATTACKED_BY for rate in RATES[1:]]
        seconds = numbers["seconds_per_prompt"]
        rows.append([*cells, "" if seconds is None else f"{seconds:.0f}"])
    heads = ["setting", "prompts", "pre_asr"]
    heads += [f"{attack}: {rate}" for attack in ATTACKED_BY for rate in RATES[1:]]
    prompts_each = max(len(result.attempts) for result in results["unlearndiff"].values())
    gradient, prefixes = results["unlearndiff"], results["random_prefix"]
    finding = (
        f"With a tenth of its published steps, UnlearnDiffAtk restores the object for "
        f"{spread(gradient, 'asr', names=True)} of {prompts_each} prompts ({spread(gradient, 'fresh_asr')} at a fresh "
        f"seed), {ATTACKED_BY['random_prefix']['prefixes']} random prefixes for {spread(prefixes, 'asr', names=True)}, "
        f"and the prompts without an attack for {spread(gradient, 'pre_asr')}."
    )
    failed = sum(
        attempt.success is None for of in results.values() for some in of.values() for attempt in some.attempts
    )
    body = f"""
Eight prompts per method separate only methods that differ strongly. Intervals are at 95%, over prompts; prompts without
an answer: {failed}. Seconds are the search time of UnlearnDiffAtk per prompt. docs/attacks.md explains the rates.

{table([*heads, "seconds per prompt"], rows)}
"""
    return Page("Attack success rates, prompt by prompt", finding, body)


def spread(results: dict[str, AttackResult], rate: str, names: bool = False) -> str:
    """The smallest and the largest number of prompts over the settings, with the settings that have it."""
    counts = {
        label: round(value.value * value.n) for label, result in results.items() if (value := rate_of(result, rate))
    }
    low, high = min(counts.values()), max(counts.values())

    def named(count: int) -> str:
        labels = [f"`{label}`" for label, number in counts.items() if number == count]
        return f"{count} ({labels[0]})" if names and len(labels) == 1 else str(count)

    return named(low) if low == high else f"{named(low)} to {named(high)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, one prompt; writes no result")
    parser.add_argument("--uce", action="store_true", help="five objects, uce, and P4D and Ring-A-Bell")
    parser.add_argument("--work", type=Path, default=Path("attack_rates"), help="erasers, images and attempts")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    if arguments.uce:
        run_uce(model, judge, arguments.work / "uce")
        return
    names, n = (OBJECTS[:1], 1) if arguments.quick else (OBJECTS, PROMPTS)
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    settings = {label: SETTINGS[label] for label in ("uce token", "rece")} if arguments.quick else SETTINGS
    attacked_by: dict[str, dict[str, Scalar]] = (
        {attack: dict.fromkeys(options, 2) for attack, options in ATTACKED_BY.items()}
        if arguments.quick
        else ATTACKED_BY
    )
    attempts: Attempts = {attack: {label: [] for label in settings} for attack in ATTACKED_BY}
    calibrations: list[str] = []
    for name in names:
        erasers = erasers_of(model, name, settings, work / name)
        results, calibration = run(model, judge, name, erasers, n, attacked_by, work / name)
        calibrations.append(
            f"{name} recall {cell(calibration.recall)}, false-positive rate {cell(calibration.false_positive_rate)}"
        )
        for attack, of in results.items():
            for label, some in of.items():
                attempts[attack][label] += some
    content = {
        attack: {label: {"attempts": [attempt.as_dict() for attempt in some]} for label, some in of.items()}
        for attack, of in attempts.items()
    }
    result = page(content)
    print(f"\n{result.finding}\n\n{result.body}")
    if not arguments.quick:
        facts = (f"{', '.join(OBJECTS)}", f"{PROMPTS} prompts each", f"judge {judge.name} {judge.version}")
        write("attack_rates", content, result, machine(), *facts, *calibrations)


if __name__ == "__main__":
    main()
