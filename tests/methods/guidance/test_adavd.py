"""AdaVD against the published equations, value by value, and what an orthogonal complement promises."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, Model
from efface.edits.kinds import GuardEdit
from efface.methods.guidance.adavd import Values, gram_schmidt

SETTINGS: dict[str, Any] = {"token_sim": True, "sigmoid_a": 100.0, "sigmoid_b": 0.93, "sigmoid_c": 2.0}
SMOOTH = SETTINGS | {"sigmoid_a": 3.0, "sigmoid_b": 0.2}


def rows(count: int, seed: int, width: int = 16) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(v: Tensor, targets: Tensor, settings: Any) -> Tensor:
    """v' of one value."""
    coefficients, basis = [[1.0]], [targets[0]]
    for i in range(1, len(targets)):
        q, row = targets[i].clone(), [0.0] * i + [1.0]
        for j, earlier in enumerate(basis):
            share = float(earlier @ targets[i] / (earlier @ earlier))
            q -= share * earlier
            for at, value in enumerate(coefficients[j]):
                row[at] -= share * value
        basis.append(q)
        coefficients.append(row)
    preserved = v.clone()
    for q, row in zip(basis, coefficients, strict=True):
        for factor, t in zip(row, targets, strict=False):
            cosine = float(v @ t / (v.norm() * t.norm()))
            shift = settings["sigmoid_c"] / (1 + math.exp(-settings["sigmoid_a"] * (cosine - settings["sigmoid_b"])))
            preserved -= float(v @ q / (q @ q)) * factor * (shift if settings["token_sim"] else 1.0) * t
    return preserved


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("settings", [SETTINGS, SMOOTH, SMOOTH | {"token_sim": False}])
def test_it_is_the_published_equations(count: int, settings: dict[str, Any]) -> None:
    targets = rows(count, 1)
    values = torch.cat([rows(5, 2), targets + 0.1 * rows(count, 3)])
    found = values - Values(targets, settings).erased(values)
    for value, preserved in zip(values, found, strict=True):
        expected = literal(value, targets, settings)
        assert float((preserved - expected).norm() / expected.norm()) < 1e-8


def test_values_at_right_angles_to_the_concepts_stay() -> None:
    targets = rows(3, 1)
    basis, _ = torch.linalg.qr(targets.T)
    values = rows(6, 2)
    values -= values @ basis @ basis.T
    for settings in (SETTINGS, SMOOTH, SMOOTH | {"token_sim": False}):
        assert float(Values(targets, settings).erased(values).norm()) < 1e-12


def test_without_the_shift_it_is_the_orthogonal_complement() -> None:
    targets, values = rows(3, 1), rows(6, 2)
    found = values - Values(targets, SETTINGS | {"token_sim": False}).erased(values)
    basis, _ = torch.linalg.qr(targets.T)
    torch.testing.assert_close(found, values - values @ basis @ basis.T)


def test_the_concept_itself_is_turned_around_and_an_unlike_value_is_spared() -> None:
    (target,) = targets = rows(1, 1)
    unlike = rows(1, 2)
    erased = Values(targets, SETTINGS)
    torch.testing.assert_close(erased.erased(targets)[0], 2 * target, rtol=1e-2, atol=0)
    assert float(erased.erased(unlike).norm() / unlike.norm()) < 1e-12


def test_gram_schmidt_is_orthogonal_and_bears_dependent_concepts() -> None:
    targets = rows(4, 1)
    orthogonal = gram_schmidt(targets) @ targets
    product = orthogonal @ orthogonal.T
    assert float((product - product.diag().diag()).norm() / product.norm()) < 1e-12
    twice = torch.cat([targets, targets[:2]])
    settings = SETTINGS | {"token_sim": False}
    values = rows(3, 2)
    torch.testing.assert_close(Values(twice, settings).erased(values), Values(targets, settings).erased(values))


def test_every_value_map_is_guarded_at_every_token_but_the_first(tiny_model: Model, guided: Any) -> None:
    eraser = efface.erase(tiny_model, ["cat", "golf ball"], method="adavd", sigmoid_b=0.0)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    concepts = tiny_model.embed(["cat", "golf ball"]).last_tokens.double()
    with eraser.attach(tiny_model):
        readers = [module for name, module in tiny_model.denoiser.named_modules() if name.endswith("attn2.to_v")]
        handles = [
            module.register_forward_hook(lambda m, args, out: seen.append((m.weight.detach(), args[0], out)))
            for module in readers
        ]
        guided(tiny_model, ["a cat", "a house"])
        for handle in handles:
            handle.remove()
    assert len(seen) == len(readers) > 0
    for weight, text, values in seen:
        plain = text.double() @ weight.double().T
        expected = plain - Values(concepts @ weight.double().T, SETTINGS | {"sigmoid_b": 0.0}).erased(plain)
        expected[:, 0] = plain[:, 0]
        torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-5)
        assert float((expected - plain).norm()) > 1e-3


def test_jointly_both_branches_are_one_vector_as_in_the_references_code(tiny_model: Model, guided: Any) -> None:
    names = ["cat", "golf ball"]
    eraser = efface.erase(tiny_model, names, method="adavd", joint=True, sigmoid_a=3.0, sigmoid_b=0.2)
    concepts, empty = tiny_model.embed(names).last_tokens.double(), tiny_model.embed([""]).tokens[0].double()
    name, reader = next(
        (name, module) for name, module in tiny_model.denoiser.named_modules() if name.endswith("attn2.to_v")
    )
    seen: list[tuple[Tensor, Tensor]] = []
    with eraser.attach(tiny_model):
        handle = reader.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
        guided(tiny_model, ["a cat", "a house"], negative="dog")
        handle.remove()
    assert name
    ((text, found),) = seen
    weight = reader.weight.detach().double()
    plain = text.double() @ weight.T
    for image in range(2):
        for at in range(1, tiny_model.max_tokens):
            other = (weight @ empty[at]).expand(2, -1)
            targets = torch.cat([other, concepts @ weight.T], dim=1)
            both = torch.cat([plain[image, at], plain[2 + image, at]])
            expected = literal(both, targets, SMOOTH)
            torch.testing.assert_close(
                torch.cat([found[image, at], found[2 + image, at]]).double(), expected, rtol=1e-4, atol=1e-5
            )
    torch.testing.assert_close(found[:, 0].double(), plain[:, 0], rtol=1e-5, atol=1e-6)


def test_jointly_needs_guidance(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", method="adavd", joint=True)
    text = tiny_model.embed(["", "a cat"]).tokens
    with eraser.attach(tiny_model), torch.no_grad(), pytest.raises(BadInput, match="guidance scale above 1"):
        tiny_model.denoiser(torch.randn(2, 4, 8, 8), torch.tensor(5), encoder_hidden_states=text)


def test_the_published_middle_of_the_sigmoid_is_of_joint_cosines(tiny_model: Model) -> None:
    for joint, middle in ((True, 0.93), (False, 0.86)):
        (part,) = efface.erase(tiny_model, "cat", method="adavd", joint=joint).edits
        assert isinstance(part, GuardEdit)
        assert part.settings["sigmoid_b"] == middle


def test_restoring_a_concept_is_erasing_the_others(tiny_model: Model) -> None:
    whole = efface.erase(tiny_model, ["cat", "golf ball", "van gogh"], method="adavd")
    assert whole.without("cat").hash == efface.erase(tiny_model, ["golf ball", "van gogh"], method="adavd").hash


def test_fused_projections_are_refused(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", method="adavd")
    tiny_model.denoiser.fuse_qkv_projections()
    with pytest.raises(BadInput, match="unfuse"):
        eraser.attach(tiny_model)
