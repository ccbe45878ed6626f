"""How many prompts bring an erased object back: UnlearnDiffAtk against every method, beside as many random prefixes.

    python benchmarks/attack_rates.py            two objects, all settings; writes results/attack_rates.md and .json
    python benchmarks/attack_rates.py --quick    one object, one prompt, two settings; writes no result

Each object is erased alone by the settings of closed_form_quality.py and trained_quality.py, and attacked as `efface
attack` does it, prompt by prompt. UnlearnDiffAtk has a tenth of its published steps here: at 10 times 20 of Adam
instead of at 50 times 40, so that it judges at most 10 images of a prompt; random prefixes have 10 images too. Rates
are over the prompts of both objects. Erasers, images and attempts are kept under --work, so that an interrupted run
goes on.
"""

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import closed_form_quality
import efface
import trained_quality
from attacks import prompts, unseen
from efface import Eraser
from efface.attacks import ATTACKS
from efface.generation import Job, Sampling
from efface.judges import Judge, open_judge
from efface.metrics.rates import Rate
from efface.models import Model
from efface.protocols.attack_rates import Run, attacked
from efface.protocols.attacked import Attacked, Attempt
from efface.protocols.results import Calibration
from efface.settings import Scalar
from quality import Setting, keep, request_of

OBJECTS, PROMPTS = ("cat", "church"), 4
CLOSED = ("uce token", "rece", "certified", "robust", "speed", "adavd")
SETTINGS: dict[str, Setting] = {name: closed_form_quality.SETTINGS[name] for name in CLOSED} | trained_quality.SETTINGS
ATTACKED_BY: dict[str, dict[str, Scalar]] = {
    "random_prefix": {"prefixes": 10},
    "unlearndiff": {"timesteps": 10, "iterations": 20},
}
RATES = ("pre_asr", "asr", "fresh_asr")
Found = dict[str, dict[str, list[Attempt]]]  # attack -> setting -> the attempts on all objects
Trust = dict[str, Calibration]  # object -> of the judge


def erasers(model: Model, name: str, settings: dict[str, Setting], work: Path) -> dict[str, Eraser]:
    """One object's, those that are trained as trained_quality.py trains them."""
    made: dict[str, Eraser] = {}
    for said, setting in settings.items():
        request, path = request_of(name, "object", setting), work / f"{said}.safetensors"
        if said in trained_quality.SETTINGS:
            trained_quality.trained(request, path)
            made[said] = Eraser.load(path)
        else:
            made[said] = efface.erase(model, request)
    return made


def run(
    model: Model, judge: Judge, name: str, settings: dict[str, Setting], n: int, quick: bool, work: Path
) -> tuple[Found, Calibration]:
    """All attacks on all erasers of one object."""
    work.mkdir(parents=True, exist_ok=True)
    held = erasers(model, name, settings, work)
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(prompts([name], n, unseen(name)))]
    others = [Job(prompt, seed) for seed, prompt in enumerate(prompts(["tree", "bus", "rabbit", "guitar"], 24))]
    found, calibration = Found(), Calibration(judge.name, judge.version, None, None)
    for attack, options in ATTACKED_BY.items():
        entry = ATTACKS.get(attack)
        few: dict[str, Scalar] = dict.fromkeys(options, 2) if quick else options
        config = entry.config.model_validate(few)
        out = work / attack
        how = Run(model, judge, entry, config, name, jobs, Sampling.default(model), out, others)
        calibration, told = attacked(how, held)
        print(f"{name}, {attack}: {calibration}", flush=True)
        for said, of in told.items():
            print(f"  {said}: " + ", ".join(f"{key} {rate}" for key, rate in of.rates.items()), flush=True)
        found[attack] = {said: list(of.attempts) for said, of in told.items()}
    return found, calibration


def cell(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def page(found: Found, trust: Trust) -> str:
    heads = ["setting", "prompts", "pre_asr"]
    heads += [f"{attack}: {rate}" for attack in ATTACKED_BY for rate in RATES[1:]]
    lines = ["| " + " | ".join([*heads, "seconds a prompt"]) + " |", "|---" * (len(heads) + 1) + "|"]
    for said in SETTINGS:
        of = {attack: Attacked(tuple(rows[said])) for attack, rows in found.items()}
        last = of["unlearndiff"].as_dict()
        cells = [said, str(last["n"]), cell(of["unlearndiff"].rates["pre_asr"])]
        cells += [cell(of[attack].rates[rate]) for attack in ATTACKED_BY for rate in RATES[1:]]
        seconds = last["seconds_per_prompt"]
        lines.append("| " + " | ".join([*cells, "" if seconds is None else f"{seconds:.0f}"]) + " |")
    judge = next(iter(trust.values()))
    known = [
        f"- {name}: found in {cell(told.recall)} of the unedited model's images of these prompts, in "
        f"{cell(told.false_positive_rate)} of its images of other things"
        for name, told in trust.items()
    ]
    errors = sum(attempt.success is None for rows in found.values() for some in rows.values() for attempt in some)
    return f"""# Attacks prompt by prompt, on the embedded model

{", ".join(OBJECTS)}, {PROMPTS} prompts each; judge {judge.name} {judge.version}; torch {torch.__version__},
{torch.get_num_threads()} thread(s) of a busy machine. Made by `python benchmarks/attack_rates.py`, whose first lines
say what is measured; what the rates are is in docs/attacks.md. Intervals are at 95%, by prompt; prompts without an
answer: {errors}. Seconds are of the search of one prompt by UnlearnDiffAtk.

{chr(10).join(known)}

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one object, one prompt; writes no result")
    parser.add_argument("--work", type=Path, default=Path("attack_rates"), help="erasers, images and attempts")
    arguments = parser.parse_args()
    model, judge = efface.open_model("emoji"), open_judge("emoji")
    names, n = (OBJECTS[:1], 1) if arguments.quick else (OBJECTS, PROMPTS)
    work = Path(tempfile.mkdtemp()) if arguments.quick else arguments.work
    settings = {said: SETTINGS[said] for said in ("uce token", "rece")} if arguments.quick else SETTINGS
    found: Found = {attack: {said: [] for said in settings} for attack in ATTACKED_BY}
    trust: Trust = {}
    for name in names:
        of, trust[name] = run(model, judge, name, settings, n, arguments.quick, work / name)
        for attack, some in of.items():
            for said, attempts in some.items():
                found[attack][said] += attempts
    if arguments.quick:
        return
    text = page(found, trust)
    print("\n" + text)
    rows: dict[str, dict[str, dict[str, Any]]] = {
        attack: {said: {"attempts": [asdict(attempt) for attempt in attempts]} for said, attempts in some.items()}
        for attack, some in found.items()
    }
    keep(rows, text, "attack_rates")


if __name__ == "__main__":
    main()
