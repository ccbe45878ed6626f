"""Debiasing against the published script, written out layer by layer, with given shares; then with a real judge."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, Request, TextEdit, open_model
from efface.edits.kinds import Edit, hash_of
from efface.eraser.solve import solve_request
from efface.judges import open_judge
from efface.methods.closed_form.uce_debias import missing
from efface.tools import measure_by

CONCEPTS, ATTRIBUTES, PRESERVE = ("a horse", "bird"), {"cat": 0.3, "dog": 0.5, "parrot": 0.2}, ("blue house",)
#: What is measured in each round, for each concept.
ROUNDS = [[(0.0, 1.0, 0.0), (0.3, 0.5, 0.2)], [(0.6, 0.2, 0.2), (0.1, 0.9, 0.0)], [(0.32, 0.48, 0.2), (0.3, 0.5, 0.2)]]


class Given:
    """Shares that are known beforehand, and what was asked."""

    def __init__(self, rounds: Sequence[Sequence[Sequence[float]]]) -> None:
        self.answers = [shares for of_round in rounds for shares in of_round]
        self.asked: list[tuple[str, list[str], Sequence[Edit], dict[str, Any]]] = []

    def __call__(self, prompt: str, attributes: Sequence[str], edits: Sequence[Edit], **how: Any) -> Sequence[float]:
        self.asked.append((prompt, list(attributes), edits, how))
        return self.answers[len(self.asked) - 1]


def request(concepts: Sequence[str] = CONCEPTS, **options: Any) -> Request:
    shares = ",".join(map(str, ATTRIBUTES.values()))
    return Request.make(
        concepts, list(ATTRIBUTES), goal="debias", preserve=PRESERVE, options={"shares": shares, **options}
    )


def debias(model: Model, request: Request, given: Given) -> Eraser:
    return Eraser.of(solve_request(model, request, {"measure": lambda: given, "progress": lambda: None}))


def debiased(model: Model, given: Given, **options: Any) -> Eraser:
    wanted = request(**options)
    return debias(model, wanted, given)


def script(model: Model, weight: Tensor, step: float, max_diff: float) -> Tensor:
    """One weight by the 2025 script: targets grow in place, the solve starts from the original weight."""

    def token(prompt: str) -> Tensor:
        mask = model.tokenizer([prompt], padding="max_length", max_length=model.max_tokens)["attention_mask"]
        return model.embed([prompt]).tokens[0, sum(mask[0]) - 2].double()

    outputs = {prompt: weight @ token(prompt) for prompt in (*CONCEPTS, *ATTRIBUTES, *PRESERVE)}
    edited = weight
    for shares in ROUNDS:
        scales: list[list[float]] = []
        for found in shares:
            ratios = [want - have for want, have in zip(ATTRIBUTES.values(), found, strict=True)]
            settled = max(ratios) < max_diff and abs(min(ratios)) < max_diff
            scales.append([0.0] * len(ratios) if settled else ratios)
        if not any(abs(scale) > 0 for of_concept in scales for scale in of_concept):
            break
        left, right = 0.5 * weight, 0.5 * torch.eye(weight.shape[1], dtype=torch.float64)
        for concept, of_concept in zip(CONCEPTS, scales, strict=True):
            for attribute, scale in zip(ATTRIBUTES, of_concept, strict=True):
                outputs[concept] = outputs[concept] + step * scale * outputs[attribute]
            left = left + torch.outer(outputs[concept], token(concept))
            right = right + torch.outer(token(concept), token(concept))
        for prompt in PRESERVE:
            left = left + torch.outer(outputs[prompt], token(prompt))
            right = right + torch.outer(token(prompt), token(prompt))
        edited = left @ torch.linalg.inv(right)
    return edited


def operator(eraser: Eraser) -> Tensor:
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    return torch.eye(edit.dim, dtype=torch.float64) + edit.matrix


@pytest.mark.parametrize(("options", "step"), [({}, 1.0), ({"step_size": 0.1}, 0.1)])
def test_it_is_the_published_script_in_every_layer(tiny_model: Model, options: dict[str, Any], step: float) -> None:
    given = Given(ROUNDS)
    found = operator(debiased(tiny_model, given, **options))
    assert len(given.asked) == 6  # and not again after the round in which all shares were near
    for _, weight in tiny_model.text_weights():
        wide = weight.double()
        expected = script(tiny_model, wide, step, 0.05)
        assert float((expected - wide).norm()) > 1e-3
        torch.testing.assert_close(wide @ found, expected, rtol=0, atol=1e-10)


def test_a_concept_moves_unless_all_its_shares_are_near() -> None:
    wanted = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    for found, moves in [((0.3, 0.5, 0.2), False), ((0.34, 0.46, 0.2), False), ((0.35001, 0.45, 0.2), True)]:
        lacks = missing(wanted, torch.tensor(found, dtype=torch.float64), 0.05)
        torch.testing.assert_close(lacks, (wanted - torch.tensor(found).double()) * moves)


def test_every_round_looks_at_new_images_under_the_eraser_so_far(tiny_model: Model) -> None:
    given = Given(ROUNDS)
    eraser = debiased(tiny_model, given, seed=7, num_images_per_prompt=4, num_inference_steps=3, guidance_scale=2.0)
    assert [prompt for prompt, *_ in given.asked] == [*CONCEPTS] * 3
    assert all(attributes == list(ATTRIBUTES) for _, attributes, *_ in given.asked)
    seeds = [seed for *_, how in given.asked for seed in how["seeds"]]
    assert seeds == list(range(7, 7 + 6 * 4))
    assert {(how["steps"], how["guidance"]) for *_, how in given.asked} == {(3, 2.0)}
    attached = [edits for _, _, edits, _ in given.asked]
    assert attached[:2] == [(), ()]
    assert len({hash_of(edits) for edits in attached[2:]}) == 2
    assert eraser.hash == hash_of(attached[-1])
    assert [list(round["bird"].values()) for round in eraser.provenance["shares"]] == [list(r[1]) for r in ROUNDS]


def test_a_model_that_is_balanced_is_left_alone(tiny_model: Model) -> None:
    eraser = debiased(tiny_model, Given([ROUNDS[-1]]))
    torch.testing.assert_close(operator(eraser), torch.eye(tiny_model.width, dtype=torch.float64))


def test_it_warns_when_rounds_run_out(tiny_model: Model) -> None:
    with pytest.warns(UserWarning, match="After 2 rounds .*step_size"):
        debiased(tiny_model, Given(ROUNDS), max_iterations=2)


def test_concepts_are_given_back_one_by_one(tiny_model: Model) -> None:
    both = debiased(tiny_model, Given(ROUNDS))
    alone = request(CONCEPTS[:1])
    one = debias(tiny_model, alone, Given([[r[0]] for r in ROUNDS]))
    torch.testing.assert_close(operator(both.without("bird")), operator(one), rtol=0, atol=1e-10)


def alone(model: Model, concept: str, column: int) -> Eraser:
    """One concept debiased, by what is measured of it from when on it is not balanced."""
    wanted = request([concept])
    return debias(model, wanted, Given([[r[column]] for r in ROUNDS[column:]]))


def test_debiasing_erasers_are_solved_again_together(tiny_model: Model, tmp_path: Path) -> None:
    both = efface.compose(alone(tiny_model, "a horse", 0), alone(tiny_model, "bird", 1))
    torch.testing.assert_close(operator(both), operator(debiased(tiny_model, Given(ROUNDS))), rtol=0, atol=1e-10)
    assert both.request == request()
    assert "shares" not in both.provenance  # which were measured under each alone
    both.save(tmp_path / "both.safetensors")
    assert Eraser.load(tmp_path / "both.safetensors").request == both.request


@pytest.mark.filterwarnings("ignore:.*one after the other")
def test_what_debiases_and_what_erases_act_one_after_the_other(tiny_model: Model, tmp_path: Path) -> None:
    first, second = alone(tiny_model, "a horse", 0), efface.erase(tiny_model, "cat", "dog")
    for pair in ((first, second), (second, first)):
        both = efface.compose(*pair)
        assert both.edits == (*pair[0].edits, *pair[1].edits)
        assert {concept.name: bool(concept.attributes) for concept in both.request.concepts} == {
            "a horse": True,
            "cat": False,
        }
        both.save(tmp_path / "both.safetensors", force=True)
        loaded = Eraser.load(tmp_path / "both.safetensors")
        assert loaded.request == both.request
        assert loaded.without("cat").request == first.request
        assert loaded.without("a horse").hash == second.hash


def test_wishes_that_contradict_each_other_are_refused(tiny_model: Model) -> None:
    one = alone(tiny_model, "bird", 1)
    other = Request.make("bird", ["cat", "dog"], goal="debias", preserve=PRESERVE)
    two = debias(tiny_model, other, Given([[(0.0, 1.0)], [(0.5, 0.5)]]))
    with pytest.raises(BadRequest, match=r"'bird' is debiased to cat 30%.*cat 50%, dog 50% by another.*--without"):
        efface.compose(one, two)
    with pytest.raises(BadRequest, match=r"'bird' is erased by one eraser and debiased by another"):
        efface.compose(one, efface.erase(tiny_model, "bird", "dog"))


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        ({"options": {"variant": "window"}}, "one token"),
        ({"options": {"expand_prompts": True}}, "one token"),
        ({}, "--judge"),
    ],
)
def test_what_it_cannot_do_is_refused(
    tiny_model: Model, change: dict[str, Any], printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without --judge, the default CLIP would be downloaded; a hub that is out of reach is tried again for 40 s.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadRequest, match=printed):
        efface.erase(tiny_model, request(**change.get("options", {})))


def test_goals_do_not_mix(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="max_diff is for the goal debias"):
        efface.erase(tiny_model, "cat", "dog", max_diff=0.1)
    with pytest.raises(BadRequest, match="rece cannot debias"):
        efface.erase(tiny_model, "cat", ["dog", "horse"], goal="debias", method="rece")
    with pytest.raises(BadRequest, match="--certify"):
        efface.erase(tiny_model, "cat", ["dog", "horse"], goal="debias", certify=True)


def test_the_embedded_model_draws_what_it_drew_too_seldom() -> None:
    model, judge = open_model("emoji"), open_judge("emoji")
    few: dict[str, Any] = {"num_images_per_prompt": 4, "num_inference_steps": 6}
    measure: Callable[..., list[float]] = measure_by(judge, model)  # pyright: ignore[reportAssignmentType]
    first = measure("a pet", ["cat", "dog"], None, seeds=range(4), steps=6, guidance=7.5)
    wanted = "1,0" if first[0] < first[1] else "0,1"
    eraser = efface.erase(
        model,
        "a pet",
        ["cat", "dog"],
        goal="debias",
        judge=judge,
        shares=wanted,
        step_size=0.5,
        max_iterations=3,
        **few,
    )
    rounds = [list(shares["a pet"].values()) for shares in eraser.provenance["shares"]]
    assert rounds[0] == first
    seldom = wanted.split(",").index("1")
    assert rounds[-1][seldom] > first[seldom] + 0.4
    assert eraser.rank == 1
