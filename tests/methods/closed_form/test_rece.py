"""RECE against its published loop, written out: every layer a matrix of its own, inverted in every step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import efface
from efface import BadRequest, Concept, Eraser, Model, Request, TextEdit, open_model
from efface.edits.composition import composed, least_rank
from published_rece import all_tokens, published
from support import relative, the_edit

PAIRS = [("cat", "dog"), ("golf ball", "")]


@pytest.mark.parametrize(
    ("how", "item"),
    [
        ("close_regzero", "1st"),
        ("close_surrogatereg", "1st"),
        ("close_surrogatereg", "2nd"),
        ("close_surrogatereg", "both"),
        ("close_standardreg", "1st"),
    ],
)
def test_it_is_the_published_loop_over_layers(tiny_model: Model, how: str, item: str) -> None:
    old, new = zip(*PAIRS, strict=True)
    options: dict[str, Any] = {"emb_computing": how, "reg_item": item, "regular_scale": 0.1, "epochs": 2}
    eraser = efface.erase(tiny_model, old, new, preserve=["horse"], method="rece", **options)
    start = the_edit(efface.erase(tiny_model, old, new, preserve=["horse"], variant="window"))
    weights = [weight.double() for _, weight in tiny_model.text_weights()]
    expected = published(tiny_model, start, PAIRS, ["", "horse"], 2, 0.1, how=how, item=item)
    # Regularised in the layers alone, M^T S M is inverted with no ridge, and both sides round by its condition.
    tolerance = 1e-8 if (how, item) == ("close_surrogatereg", "1st") else 1e-9
    for weight, aim in zip(weights, expected, strict=True):
        assert relative(the_edit(eraser).on(weight), aim) < tolerance
        assert relative(the_edit(eraser).on(weight) - weight, aim - weight) < tolerance


def test_unsafe_concepts_keep_the_empty_prompt_once_each_and_have_their_own_settings(tiny_model: Model) -> None:
    request = Request.make(["cat", "van gogh"], kind="nudity", method="rece")
    eraser = efface.erase(tiny_model, request)
    assert (eraser.provenance["settings"]["epochs"], eraser.provenance["settings"]["regular_scale"]) == (2, 0.1)
    start = the_edit(efface.erase(tiny_model, ["cat", "van gogh"], kind="unsafe", variant="window"))
    pairs = [("cat", ""), ("van gogh", "")]
    expected = published(tiny_model, start, pairs, ["", ""], 2, 0.1, how="close_regzero", item="1st")
    weight = next(tiny_model.text_weights())[1].double()
    assert relative(the_edit(eraser).on(weight) - weight, expected[0] - weight) < 1e-9


@pytest.mark.parametrize(
    ("kind", "epochs", "scale"), [("unsafe", 3, 0.1), ("style", 1, 1e-3), ("object", 1, 1e-3), ("memorised", 1, 1e-3)]
)
def test_published_settings_follow_the_kind(tiny_model: Model, kind: str, epochs: int, scale: float) -> None:
    settings = efface.erase(tiny_model, "cat", kind=kind, method="rece").provenance["settings"]
    assert (settings["epochs"], settings["regular_scale"]) == (epochs, scale)
    assert (settings["lamb"], settings["preserve_scale"], settings["erase_scale"]) == (0.1, 0.1, 1.0)
    assert settings["uce"]["variant"] == "window"
    assert settings["uce"]["lamb"] == 0.5


def test_options_of_the_uce_it_starts_from(tiny_model: Model) -> None:
    options: dict[str, Any] = {"uce.lamb": 0.2, "uce.variant": "token", "epochs": 0}
    eraser = efface.erase(tiny_model, "cat", "dog", method="rece", **options)
    uce = efface.erase(tiny_model, "cat", "dog", lamb=0.2)
    assert relative(the_edit(eraser).matrix, the_edit(uce).matrix) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uce.lambda": 1.0}, "known are.*lamb"),
        ({"uce.technique": "tensor", "uce.variant": "window"}, "tensor"),
        ({"epochs": -1}, "epochs"),
        ({"emb_computing": "gd"}, "emb_computing"),
        ({"tokens": "first"}, "tokens"),
        ({"preset": "hard"}, "preset"),
        ({"target_ckpt": "uce.safetensors", "uce.lamb": 1.0}, "leave one of them out"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(tiny_model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        efface.erase(tiny_model, "cat", method="rece", **options)


def test_the_denoiser_is_not_loaded(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("erasing by rece reads the text encoder and S only")

    model = open_model(tiny_sd)
    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    assert efface.erase(model, "cat", "dog", method="rece").rank > 0


def test_some_concepts_alone_are_as_if_the_others_had_never_been_erased(tiny_model: Model, tmp_path: Path) -> None:
    concepts = tuple(
        Concept(name=name, guide=guide, kind="unsafe")
        for name, guide in [("cat", "dog"), ("golf ball", ""), ("van gogh", "art")]
    )
    request = Request(concepts=concepts, preserve=("horse", "a car"), method="rece")
    efface.erase(tiny_model, request).save(tmp_path / "three.safetensors")
    loaded = Eraser.load(tmp_path / "three.safetensors")
    for names in (("cat", "van gogh"), ("golf ball",)):
        direct = efface.erase(tiny_model, request.keeping(names))
        part = loaded.only(*names)
        assert relative(the_edit(part).matrix, the_edit(direct).matrix) < 1e-10
        assert part.provenance["settings"] == direct.provenance["settings"]
        assert relative(the_edit(part.only(names[0])).matrix, the_edit(loaded.only(names[0])).matrix) < 1e-10


def test_what_it_erases_no_longer_comes_back_as_easily(tiny_model: Model) -> None:
    """The embedding that RECE derives from UCE's weights reaches the concept there, and not in RECE's."""
    weight = torch.cat([weight.double() for _, weight in tiny_model.text_weights()])
    uce = the_edit(efface.erase(tiny_model, "cat", "dog", variant="window"))
    rece = the_edit(efface.erase(tiny_model, "cat", "dog", method="rece"))
    c = all_tokens(tiny_model, "cat")
    gram = uce.on(weight).T @ uce.on(weight) + 1e-3 * torch.eye(tiny_model.width, dtype=torch.float64)
    attack = torch.linalg.solve(gram, uce.on(weight).T @ weight @ c.T).T
    missed = [float((edit(attack) - c).norm() / c.norm()) for edit in (uce, rece)]
    assert missed[0] < 0.1
    assert missed[1] > 3 * missed[0]


def test_composing_is_one_edit_after_the_other_with_no_column_too_many() -> None:
    generator = torch.Generator().manual_seed(0)

    def edit(rank: int) -> TextEdit:
        left, right = torch.randn(2, 20, rank, generator=generator, dtype=torch.float64)
        return TextEdit(left, right)

    first, second, weight = edit(2), edit(3), torch.randn(7, 20, generator=generator, dtype=torch.float64)
    both = composed(first, second)
    assert both.rank == 5
    assert relative(both.on(weight), second.on(first.on(weight))) < 1e-12
    doubled = TextEdit(torch.cat([first.left] * 2, 1), torch.cat([first.right] * 2, 1))
    assert least_rank(doubled).rank == 2
    assert relative(least_rank(doubled).matrix, doubled.matrix) < 1e-12
    nothing = TextEdit(torch.zeros(20, 3, dtype=torch.float64), first.right[:, :1].repeat(1, 3))
    assert least_rank(nothing).rank == 0
    assert relative(composed(nothing, second).matrix, second.matrix) < 1e-12


def test_the_rank_is_at_most_the_edited_tokens(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", method="rece", epochs=1)
    assert eraser.rank <= tiny_model.width
    window = tiny_model.max_tokens - 1
    assert eraser.rank <= window + tiny_model.max_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_starts_from_a_checkpoint_of_the_reference(tiny_model: Model, tmp_path: Path, dtype: torch.dtype) -> None:
    """From UCE's weights as the reference saves them, it goes on as from UCE's own solve."""
    uce = efface.erase(tiny_model, ["cat", "van gogh"], ["dog", "art"], variant="window")
    state = {
        name: the_edit(uce).on(weight.double()).to(dtype)
        for name, weight in tiny_model.text_weights()
    }  # fmt: skip
    save_file(state, tmp_path / "uce.safetensors")
    imported = efface.import_eraser(tmp_path / "uce.safetensors", tiny_model, ["cat", "van gogh"])
    imported.save(tmp_path / "start.safetensors")
    options: dict[str, Any] = {"method": "rece", "target_ckpt": str(tmp_path / "start.safetensors")}
    eraser = efface.erase(tiny_model, ["cat", "van gogh"], ["dog", "art"], **options)
    direct = efface.erase(tiny_model, ["cat", "van gogh"], ["dog", "art"], method="rece")
    for _, weight in tiny_model.text_weights():
        found, expected = (the_edit(one).on(weight.double()) for one in (eraser, direct))
        assert relative(found - weight, expected - weight) < (1e-3 if dtype == torch.float32 else 0.1)
    eraser.save(tmp_path / "rece.safetensors")
    loaded = Eraser.load(tmp_path / "rece.safetensors")
    assert loaded.only("cat", "van gogh").hash == eraser.hash
    with pytest.raises(BadRequest, match="cannot be split"):
        loaded.without("cat")


def test_it_starts_from_an_eraser_by_uce(tiny_model: Model, tmp_path: Path) -> None:
    efface.erase(tiny_model, "cat", "dog", variant="window").save(tmp_path / "uce.safetensors")
    options: dict[str, Any] = {"target_ckpt": str(tmp_path / "uce.safetensors")}
    eraser = efface.erase(tiny_model, "cat", "dog", method="rece", **options)
    direct = efface.erase(tiny_model, "cat", "dog", method="rece")
    assert relative(the_edit(eraser).matrix, the_edit(direct).matrix) < 1e-10


def test_it_does_not_start_from_what_is_no_operator_on_the_text(tiny_model: Model, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = dict(tiny_model.text_weights())
    state = {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    save_file(state, tmp_path / "other.safetensors")
    efface.import_eraser(tmp_path / "other.safetensors", tiny_model, "cat").save(tmp_path / "start.safetensors")
    with pytest.raises(BadRequest, match="not one edit of the text"):
        efface.erase(tiny_model, "cat", method="rece", target_ckpt=str(tmp_path / "start.safetensors"))
