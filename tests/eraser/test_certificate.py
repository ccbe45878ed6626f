"""The certificate against attacks that try: least squares, projected gradient, and prompts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model, TextEdit, WrongBase, open_model
from efface.eraser.certificate import certify, uncertified, valid_certificate
from efface.methods.closed_form.bounds import certificates, free_residuals, text_nearest, text_residuals
from efface.methods.closed_form.ridge import PreservedTokens, solve_ridge
from efface.models.text_gram import TextGram, text_gram
from support import random

WIDTH = 24


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which no S lies yet."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))


def layer_norm() -> tuple[Tensor, Tensor]:
    return 1 + 0.3 * random(WIDTH, seed=50), 0.5 * random(WIDTH, seed=51)


def tokens(count: int, seed: int) -> Tensor:
    """What a text encoder that ends in that norm might say."""
    gamma, beta = layer_norm()
    common = 2 * random(WIDTH, seed=99)
    return torch.nn.functional.layer_norm(common + random(count, WIDTH, seed=seed), (WIDTH,), gamma, beta)


def ridge() -> TextEdit:
    return solve_ridge(tokens(2, 1), tokens(2, 2), PreservedTokens(WIDTH), erase_scale=1, preserve_scale=1, lamb=0.1)


def projection(rank: int) -> TextEdit:
    """I - L (R^T L)^-1 R^T: singular, and oblique."""
    left, right = random(WIDTH, rank, seed=3), random(WIDTH, rank, seed=4)
    return TextEdit(-left @ torch.linalg.inv(right.T @ left), right)


def nothing() -> TextEdit:
    zero = torch.zeros(WIDTH, 1, dtype=torch.float64)
    return TextEdit(zero, zero)


EDITS = {"nothing": nothing, "ridge": ridge, "one": lambda: projection(1), "three": lambda: projection(3)}


def attack(weight: Tensor, edit: TextEdit, token: Tensor) -> float:
    """What the embedding leaves that least squares finds, relative."""
    aim = weight @ token
    found = torch.linalg.lstsq(edit.on(weight), aim[:, None], driver="gelsd").solution[:, 0]
    return float((edit.on(weight) @ found - aim).norm() / aim.norm())


def gradient_attack(weight: Tensor, edit: TextEdit, token: Tensor, gamma: Tensor, beta: Tensor) -> float:
    """What projected gradient leaves, with momentum, over what the last norm lets through."""
    aim, heard = weight @ token, edit.on(weight)
    step = 1 / float(torch.linalg.matrix_norm(heard * gamma, 2) ** 2)
    z = ahead = torch.zeros(len(gamma), dtype=torch.float64)
    for count in range(4000):
        gradient = gamma * (heard.T @ (heard @ (gamma * ahead + beta) - aim))
        new = ahead - step * gradient
        new = new - new.mean()
        new = new * min(1.0, len(gamma) ** 0.5 / float(new.norm()))
        ahead, z = new + count / (count + 3) * (new - z), new
    return float((heard @ (gamma * z + beta) - aim).norm() / aim.norm())


@pytest.mark.parametrize("rows", [40, 15])  # layers that read everything, and ones that do not
@pytest.mark.parametrize("name", EDITS)
def test_free_is_what_least_squares_leaves(name: str, rows: int) -> None:
    weight, edit, concepts = random(rows, WIDTH, seed=5), EDITS[name](), tokens(3, 1)
    gram = TextGram(weight.T @ weight)
    found = free_residuals(edit, gram, concepts) / gram.norms(concepts)
    expected = torch.tensor([attack(weight, edit, token) for token in concepts], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    if name in ("nothing", "ridge"):
        assert float(found.max()) == 0
    elif rows > WIDTH:
        assert float(found.min()) > 0.01


@pytest.mark.parametrize("name", EDITS)
def test_text_is_what_projected_gradient_leaves(name: str) -> None:
    weight, edit, concepts = random(40, WIDTH, seed=5), EDITS[name](), tokens(3, 1)
    gram = TextGram(weight.T @ weight)
    found = text_residuals(edit, gram, concepts, *layer_norm()) / gram.norms(concepts)
    for token, bound in zip(concepts, found.tolist(), strict=True):
        reached = gradient_attack(weight, edit, token, *layer_norm())
        assert bound <= reached + 1e-9
        assert reached == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize("name", EDITS)
def test_what_comes_nearest_is_of_the_set_and_comes_as_near(name: str) -> None:
    weight, edit, concepts = random(40, WIDTH, seed=5), EDITS[name](), tokens(3, 1)
    gram, (gamma, beta) = TextGram(weight.T @ weight), layer_norm()
    nearest = text_nearest(edit, gram, concepts, gamma, beta)
    normal = (nearest - beta) / gamma
    assert float(normal.mean(1).abs().max()) < 1e-10
    assert float(normal.square().sum(1).max()) < WIDTH * (1 + 1e-9)
    assert torch.allclose(
        gram.norms(edit(nearest) - concepts), text_residuals(edit, gram, concepts, gamma, beta), atol=1e-9
    )


def test_the_numbers_are_in_order() -> None:
    weight, concepts, guides = random(40, WIDTH, seed=5), tokens(4, 1), tokens(4, 2)
    gram = TextGram(weight.T @ weight)
    outside = concepts - guides
    right = torch.linalg.pinv(torch.cat([outside, guides]))[:, :4]  # R^T (c - g) = 1, R^T g = 0: guides pass
    for of_one in certificates(TextEdit(-outside.T, right), gram, concepts, guides, layer_norm()):
        assert of_one.text is not None
        assert 0 < of_one.free <= of_one.text + 1e-12
        assert of_one.text <= of_one.ceiling + 1e-12
    for of_one in certificates(nothing(), gram, concepts, guides, None):
        assert (of_one.free, of_one.text) == (0, None)


def test_it_does_not_depend_on_units_or_on_how_the_edit_is_written() -> None:
    weight, concepts, guides, edit = random(40, WIDTH, seed=5), tokens(2, 1), tokens(2, 2), projection(2)
    mixed = random(2, 2, seed=8)
    same = TextEdit(
        torch.cat([edit.left @ mixed, 0 * edit.left], 1), torch.cat([edit.right @ mixed.inverse().T] * 2, 1)
    )
    first = certificates(edit, TextGram(weight.T @ weight), concepts, guides, layer_norm())
    second = certificates(same, TextGram(1e6 * weight.T @ weight), concepts, guides, layer_norm())
    for one, other in zip(first, second, strict=True):
        assert one.free == pytest.approx(other.free, rel=1e-9)
        assert one.text == pytest.approx(other.text, rel=1e-9)
        assert one.ceiling == pytest.approx(other.ceiling, rel=1e-9)


def test_no_prompt_comes_nearer_than_text_says(tiny_model: Model) -> None:
    eraser = certify(tiny_model, efface.erase(tiny_model, "cat", "dog", preserve=["horse"]))
    assert eraser.certificate is not None
    bound = eraser.certificate["cat"]
    assert bound["free"] == 0  # a ridge regression is invertible
    assert bound["text"] is not None
    (edit,) = eraser.edits
    assert isinstance(edit, TextEdit)
    prompts = ["cat", "a cat", "photo of cat", "blue cat", "dog cat", "", "zzz qqq", "style of van gogh"]
    printed = edit(tiny_model.embed(prompts).tokens.double().flatten(0, 1))
    concept = tiny_model.embed(["cat"]).last_tokens.double()
    gram = text_gram(tiny_model)
    assert float(gram.norms(printed - concept).min() / gram.norms(concept)) >= bound["text"] - 1e-9
    guide = tiny_model.embed(["dog"]).last_tokens.double()
    assert bound["ceiling"] == pytest.approx(float(gram.norms(concept - guide) / gram.norms(concept)))


@pytest.mark.usefixtures("_own_cache")
def test_it_is_kept_in_the_file_and_lost_with_a_concept_where_s_is_not(tiny_model: Model, tmp_path: Path) -> None:
    eraser = efface.erase(tiny_model, ["cat", "van gogh"], ["dog", "art"], certify=True)
    eraser.save(tmp_path / "eraser.safetensors")
    loaded = Eraser.load(tmp_path / "eraser.safetensors")
    assert loaded.certificate == eraser.certificate
    assert set(loaded.certificate or {}) == {"cat", "van gogh"}
    assert loaded.provenance["certificate"]["fingerprint"] == text_gram(tiny_model).fingerprint
    assert loaded.without("cat").certificate is None


@pytest.mark.usefixtures("_own_cache")
def test_a_cache_does_not_change_what_an_eraser_has(tiny_sd: Path) -> None:
    asked: dict[str, Any] = {"concepts": ["cat", "boat"], "to": "dog"}
    assert efface.erase(open_model(tiny_sd), **asked).certificate is None
    assert efface.erase(open_model(tiny_sd), **asked, certify=True).certificate is not None  # S is now in the cache
    assert efface.erase(open_model(tiny_sd), **asked).certificate is None


@pytest.mark.usefixtures("_own_cache")
def test_a_method_that_needs_s_certifies_unasked(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", "/dev/null")  # and though nothing can be preserved
    eraser = efface.erase(tiny_model, "cat", "dog", method="rece")
    assert eraser.certificate is not None
    assert eraser.certificate == certify(tiny_model, eraser).certificate


def near(one: Eraser, other: Eraser) -> None:
    assert one.certificate is not None
    assert other.certificate is not None
    assert one.concepts == other.concepts
    for name, numbers in other.certificate.items():
        assert one.certificate[name] == pytest.approx(numbers, rel=1e-5, abs=1e-9)  # tokens round by the batch
    assert one.provenance["certificate"]["fingerprint"] == other.provenance["certificate"]["fingerprint"]


@pytest.mark.parametrize("method", ["rece", "certified", "robust"])
def test_what_stores_s_is_certified_again_without_the_model(tiny_sd: Path, tmp_path: Path, method: str) -> None:
    def erase(*concepts: str) -> Eraser:
        return efface.erase(open_model(tiny_sd), concepts, "dog", preserve=["house"], method=method)

    one, two = erase("cat", "boat"), erase("van gogh")
    one.save(tmp_path / "one.safetensors")
    loaded = Eraser.load(tmp_path / "one.safetensors")
    both = efface.compose(loaded, two)
    for made in (loaded.without("cat"), both, both.without("boat"), both.only("van gogh").only("van gogh")):
        assert made.certificate is not None
        near(made, certify(open_model(tiny_sd), made))
    if method != "robust":  # which does not find the same for three as for each
        near(both, erase("cat", "boat", "van gogh"))


@pytest.mark.filterwarnings("ignore:.*one after the other")
def test_several_edits_of_a_stream_are_one_operator(tiny_model: Model) -> None:
    one = efface.erase(tiny_model, "cat", "dog", method="certified")
    two, three = (efface.erase(tiny_model, "boat", "dog", method=method) for method in ("rece", "uce"))
    weight = torch.cat([weight.double() for _, weight in tiny_model.text_weights()])
    concept = tiny_model.embed(["cat"]).last_tokens.double()[0]
    for parts in ((one, two), (one, three), (three, one)):
        both = certify(tiny_model, efface.compose(*parts))
        assert both.certificate is not None
        first, second = (part.edits[0] for part in parts)
        assert isinstance(first, TextEdit)
        assert isinstance(second, TextEdit)
        edited = second.on(torch.eye(first.dim, dtype=torch.float64)) @ first.on(
            torch.eye(first.dim, dtype=torch.float64)
        )
        whole = TextEdit(edited - torch.eye(first.dim, dtype=torch.float64), torch.eye(first.dim, dtype=torch.float64))
        free = both.certificate["cat"]["free"]
        assert free == pytest.approx(attack(weight, whole, concept), rel=1e-6)
        assert free is not None
        assert free > 0.01
    stored = efface.compose(one, two)  # both stored S: no model is needed
    near(stored, certify(tiny_model, stored))
    near(stored.only("cat"), one)
    assert efface.compose(one, three).certificate is None


def test_what_debiases_has_none(tiny_model: Model) -> None:
    request = efface.Request.make("cat", ["dog", "horse"], goal="debias")
    made = efface.erase(tiny_model, "cat", "dog")
    with pytest.raises(BadRequest, match="debiases"):
        certify(tiny_model, replace(made, request=request))


def test_it_is_none_where_it_does_not_apply(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"variant": "window", "technique": "tensor"}
    assert efface.erase(tiny_model, "cat", "dog", certify=True, **options).certificate is None
    monkeypatch.setattr(type(tiny_model), "text_norm", None)
    certificate = efface.erase(tiny_model, "cat", "dog", certify=True).certificate
    assert certificate is not None
    assert certificate["cat"]["text"] is None


def test_another_model_has_no_certificate_for_it(tiny_model: Model, other_sd: Path) -> None:
    with pytest.raises(WrongBase):
        certify(efface.open_model(other_sd), efface.erase(tiny_model, "cat"))


def test_a_certificate_holds_for_one_models_weights(tiny_sd: Path, other_sd: Path) -> None:
    model = open_model(tiny_sd)
    eraser = efface.erase(model, "cat", "dog", certify=True)
    assert (
        valid_certificate(model, eraser)
        == valid_certificate(open_model(model.pipeline()), eraser)
        == eraser.certificate
    )
    assert valid_certificate(model, uncertified(eraser)) is None
    with pytest.warns(UserWarning, match="does not hold"):
        assert valid_certificate(open_model(other_sd), eraser) is None
    name = model.text_parameters()[0]
    model.denoiser.get_parameter(name).data[0, 0] += 1
    with pytest.warns(UserWarning, match="eraser of cat"):
        assert valid_certificate(model, eraser) is None
