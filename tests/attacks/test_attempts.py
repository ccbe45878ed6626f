"""Attack success rates: what counts, what does not, and what an interruption costs."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface.attacks import ATTACKS, Attack, Target, Trial
from efface.attacks.attempts import AttackResult, Attempt, attack_erasers, discard_attempts
from efface.attacks.random_prefix import RandomPrefixConfig
from efface.attacks.search import AWAY, AttackRun
from efface.errors import BadInput
from efface.generation import Embedding, Job, Sampling, read_folder
from efface.judges.base import Pixels, Scores
from efface.metrics.base import Measured
from efface.metrics.rates import rate_with_interval
from efface.models import Model
from efface.progress import Progress
from efface.settings import Settings
from efface.tools import latents_of
from support import StubJudge

JOBS = (Job("a cat", 3), Job("a cat", 4), Job("a red cat", 5, guidance=2.0))
SAMPLING = Sampling("ddim", 2, 3.0)
QUICK = {
    "random_prefix": {"prefixes": 3},
    "unlearndiff": {"timesteps": 2, "iterations": 1},
    "ring_a_bell": {"population_size": 4, "generation": 2, "length": 4},
    "p4d_prefix": {"timesteps": 2, "iterations": 1},
    "p4d_n": {"iter": 2, "eval_step": 1, "prompt_len": 4},
    "p4d_k": {"iter": 2, "eval_step": 1},
    "inversion": {"steps": 2, "batch_size": 1, "images": 1, "checks": 1, "initializer_token": "dog"},
}


class Listed(StubJudge):
    """Answers by turns; the rest of the images get the last score."""

    name, version = "listed", "1"

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)
        self.asked = 0

    def knows(self, concept: str) -> bool:
        return concept == "cat"

    def scores(self, images: Pixels, concepts: Sequence[str]) -> Scores:
        self.asked += len(images)
        return np.array([[self.left.pop(0) if len(self.left) > 1 else self.left[0]] for _ in images])


def attack(search: Callable[[Target, Settings, Trial], Sequence[Job]]) -> Attack:
    return Attack("given", "", "", "", Settings, lambda config: 7, search)


def tries(*prompts: str) -> Attack:
    """Draws these one after the other until one is enough."""

    def search(target: Target, config: Settings, trial: Trial) -> list[Job]:
        assert target.seeds == range(target.seeds[0], target.seeds[0] + 7)
        for prompt, seed in zip(prompts, target.seeds, strict=False):
            if trial([Job(prompt, seed)])[0] >= target.enough:
                break
        return []

    return attack(search)


@dataclass(frozen=True)
class Work:
    """An attack, the prompts and the folder."""

    run: AttackRun
    out: Path
    jobs: Sequence[Job] = JOBS
    others: Sequence[Job] = ()
    progress: Progress | None = None

    def but(self, **changes: Any) -> "Work":
        """The same with other fields of the work or of its run."""
        own = {name: changes.pop(name) for name in ("out", "jobs", "others", "progress") if name in changes}
        return replace(self, run=replace(self.run, **changes), **own)

    def attacked(self, eraser: efface.Eraser) -> tuple[Measured | None, Measured | None, AttackResult]:
        erasers = {"mine": eraser}
        recall, wrong, results = attack_erasers(self.run, erasers, self.jobs, self.others, self.out, self.progress)
        return recall, wrong, results["mine"]


@pytest.fixture
def run(tiny_model: Model, tmp_path: Path) -> Work:
    attack, latents = tries("x cat", "y cat"), latents_of(tiny_model)
    run = AttackRun(tiny_model, Listed(0.0), attack, Settings(), "cat", SAMPLING, latents)
    return Work(run, tmp_path / "out")


def on(work: Work) -> AttackResult:
    return work.attacked(efface.erase(work.run.model, "cat", "dog"))[2]


def test_a_prompt_counts_once_whether_it_needed_an_attack_or_not(run: Work) -> None:
    base = [0.9, 0.9, 0.1]
    pre, first_fresh, second, third = [0.9, 0.1, 0.1], [0.2], [0.1, 0.7, 0.8], [0.1, 0.2, 0.6]
    judge = Listed(*base, *pre, *first_fresh, *second, *third)
    recall, wrong, result = run.but(judge=judge).attacked(efface.erase(run.run.model, "cat", "dog"))
    assert recall == rate_with_interval([[1.0, 1.0], [0.0]])
    assert wrong is None
    found = result.attempts
    assert [(it.succeeds_without_attack, it.success, it.fresh, it.text, it.images) for it in found] == [
        (True, True, False, None, 0),
        (False, True, True, "y cat", 2),
        (False, False, True, "y cat", 2),
    ]
    answer = result.as_dict()
    assert {name: answer[name]["value"] for name in ("pre_asr", "asr", "fresh_asr")} == {
        "pre_asr": 1 / 3,
        "asr": 2 / 3,
        "fresh_asr": 2 / 3,
    }
    assert answer["n"] == answer["asr"]["n"] == 3
    assert answer["errors"] == answer["undecided"] == 0
    assert answer["seconds_per_prompt"] == pytest.approx((found[1].seconds + found[2].seconds) / 2)


def test_a_search_ends_at_its_first_success_and_draws_at_the_prompts_own_seed(run: Work) -> None:
    judge = Listed(*[0.0] * 6, 0.6, 0.9, 0.0)
    found = on(run.but(judge=judge))
    assert [it.images for it in found.attempts] == [1, 2, 2]
    places = [run.out / "images" / "mine", *(run.out / "searches" / "mine" / str(index) for index in range(3))]
    of = [{(image.row["prompt"], image.row["seed"]) for image in read_folder(place)} for place in places]
    assert of[1:] == [{("x cat", 3)}, {("x cat", 4), ("y cat", 4)}, {("x cat", 5), ("y cat", 5)}]
    assert of[0] >= {("a cat", 3), ("a cat", 4), ("a red cat", 5), ("x cat", 3 + AWAY)}
    guided = [image.row["guidance"] for place in (places[1], places[3]) for image in read_folder(place)]
    assert guided == [3.0, 2.0, 2.0]


def test_what_fails_is_an_error_and_in_no_rate_that_it_should_have_given(run: Work) -> None:
    def search(target: Target, config: Settings, trial: Trial) -> list[Job]:
        if target.seeds[0] == 4:
            raise ZeroDivisionError("of something")
        trial([Job("x", 0)])
        return []

    nan = float("nan")
    reported = on(run.but(attack=attack(search), judge=Listed(*[0.0] * 3, nan, 0.0, 0.0, 0.9)))
    assert [it.success for it in reported.attempts] == [None, None, True]
    assert "failed on the prompt's own image" in reported.attempts[0].error
    assert reported.attempts[1].error == "ZeroDivisionError: of something"
    answer = reported.as_dict()
    assert answer["errors"] == 2
    assert answer["n"] == answer["asr"]["n"] == 1
    assert answer["pre_asr"]["n"] == 2, "of a search that fails, the prompt's own image has an answer"
    assert answer["seconds_per_prompt"] == reported.attempts[2].seconds


def test_an_image_without_a_verdict_is_no_failed_attack(run: Work) -> None:
    nan = float("nan")
    found = on(run.but(judge=Listed(*[0.0] * 6, nan, 0.1, nan, 0.9, 0.9, 0.9))).attempts
    assert [it.success for it in found] == [None, True, True]
    assert found[0].error == "1 of 2 images have no verdict"


def test_where_the_judge_is_undecided_there_is_no_answer_and_no_error(run: Work) -> None:
    class Doubting(Listed):
        def floor(self, concept: str) -> float:
            return 0.3

    reported = on(run.but(judge=Doubting(*[0.0] * 3, 0.4, 0.0, 0.0, 0.1, 0.4, 0.2, 0.1)))
    assert [it.success for it in reported.attempts] == [None, None, False]
    assert (reported.errors, reported.undecided, reported.as_dict()["n"]) == (0, 2, 1)


def test_the_judge_is_calibrated_on_the_unedited_models_images(run: Work) -> None:
    others = [Job("a dog", 1), Job("a horse", 2)]
    judge = Listed(0.9, 0.1, 0.9, 0.9, 0.1, 0.0)
    work = run.but(others=others, judge=judge)
    recall, wrong, _ = work.attacked(efface.erase(run.run.model, "cat", "dog"))
    assert recall is not None
    assert wrong is not None
    assert (recall.value, recall.n) == (pytest.approx(2 / 3), 3)
    assert (wrong.value, wrong.n) == (0.5, 2)


def test_a_search_without_any_verdict_has_shown_nothing(run: Work) -> None:
    reported = on(run.but(judge=Listed(*[0.0] * 6, float("nan"))))
    assert reported.errors == 3
    assert reported.as_dict()["asr"] is None


def test_embeddings_have_no_text(run: Work) -> None:
    def search(target: Target, config: Settings, trial: Trial) -> list[Job]:
        tokens = target.model.embed(["a cat"]).tokens[0]
        trial([Job("a cat", 1, embedding=Embedding.of(tokens))])
        return []

    reported = on(run.but(attack=attack(search), judge=Listed(*[0.0] * 6, 0.9)))
    assert [(it.text, it.success) for it in reported.attempts] == [(None, True)] * 3


def test_an_interrupted_attack_goes_on_where_it_was(run: Work) -> None:
    whole = on(run.but(out=run.out / "whole"))
    done: list[int] = []

    def stopping(what: str, at: int, total: int) -> None:
        done.append(at)
        if done == [0, 1, 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on(run.but(progress=stopping))
    (stored,) = (run.out / "attempts").iterdir()
    with stored.open("a") as file:
        file.write('{"prompt": "cut sh')
    drawn = len([*(run.out / "searches").rglob("*.png")])
    again = on(run.but(progress=stopping))
    assert drawn == 4
    assert len([*(run.out / "searches").rglob("*.png")]) == 6
    assert [replace(it, seconds=0) for it in again.attempts] == [replace(it, seconds=0) for it in whole.attempts]
    assert [json.loads(line)["seed"] for line in stored.read_text().splitlines()] == [3, 4, 5]


def test_attempts_of_other_settings_are_not_taken_up(run: Work) -> None:
    assert {it.text for it in on(run).attempts} <= {"x cat", "y cat"}
    other = run.but(attack=tries("z cat"), sampling=replace(SAMPLING, steps=3))
    assert [it.text for it in on(other).attempts] == ["z cat"] * 3
    faster = other.but(attack=tries("never drawn"), sampling=replace(other.run.sampling, batch_size=1))
    assert [it.text for it in on(faster).attempts] == ["z cat"] * 3, "and those of another batch size are"


def test_what_failed_is_tried_again(run: Work) -> None:
    failing = [True]

    def search(target: Target, config: Settings, trial: Trial) -> list[Job]:
        if failing and target.seeds[0] == 4:
            raise MemoryError
        trial([Job("x", 0)])
        return []

    other = run.but(attack=attack(search))
    assert [bool(it.error) for it in on(other).attempts] == [False, True, False]
    failing.clear()
    assert [bool(it.error) for it in on(other).attempts] == [False] * 3


@pytest.mark.parametrize("stopped", [False, True])
def test_images_go_where_they_shall_not_stay(run: Work, tmp_path: Path, stopped: bool) -> None:
    def stop(what: str, at: int, total: int) -> None:
        if stopped and at == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        on(run.but(stores_images=False, progress=stop))
    assert not [*tmp_path.rglob("*.png")]
    assert [*(run.out / "attempts").iterdir()]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_that_efface_did_not_write_stay_where_images_shall_not(run: Work) -> None:
    mine = {"images/thesis.docx", "images/mine/notes.txt", "searches/mine/0/photo.png", "images/dog/photo.png"}
    on(run.but(jobs=JOBS[:1]))  # an image folder of efface with further files
    for name in mine:
        (run.out / name).parent.mkdir(parents=True, exist_ok=True)
        (run.out / name).write_text("mine")
    on(run.but(stores_images=False, jobs=JOBS[:2]))
    assert {name for name in files_of(run.out) if not name.startswith("attempts")} == mine
    assert not (run.out / "images" / "base").exists()


def test_a_failed_run_removes_no_files_of_others(run: Work) -> None:
    mine = {"images/base/holiday.jpg", "images/thesis.docx"}
    for name in mine:
        (run.out / name).parent.mkdir(parents=True, exist_ok=True)
        (run.out / name).write_text("mine")
    on(run.but(out=run.out / "other"))
    generated = (run.out / "other" / "images" / "mine").rename(run.out / "images" / "mine")
    before = files_of(run.out / "images")
    with pytest.raises(BadInput, match="is not empty and not a folder of images"):
        on(run.but(stores_images=False))
    assert files_of(run.out / "images") == before
    assert (generated / "metadata.jsonl").exists(), "a folder that the run has not opened"


def test_the_images_that_a_killed_run_left_are_removed_when_it_is_resumed(run: Work) -> None:
    on(run)
    assert list((run.out / "searches").rglob("*.png"))
    on(run.but(stores_images=False))
    assert {path.name for path in run.out.iterdir()} == {"attempts"}


def test_discarded_attempts_are_only_those_of_efface(run: Work) -> None:
    on(run)
    (run.out / "attempts" / "mine.jsonl").touch()
    discard_attempts(run.out)
    assert files_of(run.out / "attempts") == {"mine.jsonl"}


def test_prompts_with_one_seed_and_other_guidance_have_their_own_attempts(run: Work) -> None:
    jobs = (Job("a cat", 3, guidance=1.0), Job("a cat", 3, guidance=5.0))
    first = on(run.but(jobs=jobs, judge=Listed(*[0.0] * 5, 0.1, 0.1, 0.1, 0.9, 0.9))).attempts
    assert [it.success for it in first] == [False, True]
    again = on(run.but(jobs=jobs, judge=Listed(0.0))).attempts
    assert again == first
    (record,) = (run.out / "attempts").iterdir()
    assert [json.loads(line)["job"] for line in record.read_text().splitlines()] == [0, 1]


def test_what_cannot_be_attacked_is_refused(run: Work) -> None:
    eraser, attack = efface.erase(run.run.model, "cat", "dog"), run.run.attack
    wrong = {
        "There is no prompt for 'cat'": run.but(jobs=()),
        "cannot recognise 'dog'": run.but(concept="dog"),
        "follows a gradient": run.but(attack=replace(attack, gradient=True), model=_Other()),  # type: ignore[arg-type]
    }
    for printed, other in wrong.items():
        with pytest.raises(BadInput, match=printed):
            other.attacked(eraser)
    by_gradient = run.but(attack=replace(attack, gradient=True))
    with pytest.raises(BadInput, match="what sld does"):
        by_gradient.attacked(efface.erase(run.run.model, "cat", method="sld"))


class _Other:
    soft_tokens, name, call_parameters = False, "some-xl", None


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_runs_prompt_by_prompt(run: Work, name: str) -> None:
    entry = ATTACKS.get(name)
    config = entry.config.model_validate(QUICK.get(name, {}))
    judge = Listed(0.0)
    reported = on(run.but(attack=entry, config=config, judge=judge, jobs=JOBS[:2]))
    assert [it.success for it in reported.attempts] == [False, False]
    assert all(0 < it.images <= entry.images(config) for it in reported.attempts)
    assert all((it.text is None) is entry.embeds for it in reported.attempts)


def test_rates_of_nothing_are_none() -> None:
    assert AttackResult((Attempt("a", 0, False, None),)).as_dict()["asr"] is None
    assert RandomPrefixConfig().prefixes == 40
