"""CURE against its equations, matrix by matrix, and what a spectral projection promises."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Eraser, Model
from efface.methods.closed_form.cure import CureConfig
from efface.methods.closed_form.tokens import OBJECT_TEMPLATES
from support import the_edit

CONCEPTS = ["golf ball", "van gogh", "a red car"]
PRESERVE = ["a horse", "blue bird", "cake"]


def projector(columns: Tensor, alpha: float) -> Tensor:
    """P = U diag(f(r)) U^T of tokens as columns (d, n)."""
    U, s, _ = torch.linalg.svd(columns)
    total = (s**2).sum()
    matrix = torch.zeros(len(columns), len(columns), dtype=torch.float64)
    for i, singular in enumerate(s):
        r = singular**2 / total
        matrix += alpha * r / ((alpha - 1) * r + 1) * torch.outer(U[:, i], U[:, i])
    return matrix


def columns(model: Model, prompts: list[str], which: str) -> Tensor:
    picked: list[Tensor] = []
    for prompt in prompts:
        mask = model.tokenizer([prompt], padding="max_length", max_length=model.max_tokens)["attention_mask"][0]
        tokens, last = model.embed([prompt]).tokens[0].double(), sum(mask) - 2
        start = {"subject": min(1, last), "last": last, "window": 1}[which]
        picked.append(tokens[start : None if which == "window" else last + 1])
    return torch.cat(picked).T


@pytest.mark.parametrize("which", ["subject", "last", "window"])
@pytest.mark.parametrize(
    ("kind", "options", "alpha"), [("object", {}, 2.0), ("unsafe", {}, 5.0), ("style", {"alpha": 9.0}, 9.0)]
)
def test_it_is_the_papers_equations(
    tiny_model: Model, which: str, kind: str, options: dict[str, Any], alpha: float
) -> None:
    eraser = efface.erase(tiny_model, CONCEPTS, kind=kind, preserve=PRESERVE, method="cure", tokens=which, **options)
    forget = projector(columns(tiny_model, CONCEPTS, which), alpha)
    retain = projector(columns(tiny_model, ["", *PRESERVE], which), alpha)
    for _, weight in tiny_model.text_weights():
        wide = weight.detach().double()
        expected = wide @ (forget - forget @ retain)
        found = wide - the_edit(eraser).on(wide)
        assert float((found - expected).norm() / expected.norm()) < 1e-9


def test_the_templates_are_tokens_to_forget_as_well(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, ["cat", "dog"], method="cure", expand_prompts=True, alpha=1000)
    texts = [form.format(name) for name in ("cat", "dog") for form in ("{}", *OBJECT_TEMPLATES)]
    forget, retain = (projector(columns(tiny_model, prompts, "subject"), 1000.0) for prompts in (texts, [""]))
    expected = -(forget - forget @ retain)
    assert float((the_edit(eraser).matrix - expected).norm() / expected.norm()) < 1e-9
    alone = the_edit(efface.erase(tiny_model, "dog", method="cure", expand_prompts=True, alpha=1000))
    torch.testing.assert_close(the_edit(eraser.without("cat")).matrix, alone.matrix, rtol=0, atol=1e-10)


def test_one_token_is_read_as_zero_where_nothing_is_retained(tiny_model: Model) -> None:
    edit = the_edit(efface.erase(tiny_model, "cat", method="cure", tokens="last", retain_empty=False))
    cat = tiny_model.embed(["cat"]).last_tokens.double()
    assert edit.rank == 1
    assert float(edit(cat).norm() / cat.norm()) < 1e-12


def test_what_is_at_right_angles_to_the_concept_is_untouched(tiny_model: Model) -> None:
    """The change is of the components along the concept alone: W' - W ends in its directions."""
    eraser = efface.erase(tiny_model, CONCEPTS, preserve=PRESERVE, method="cure")
    concept = columns(tiny_model, CONCEPTS, "subject")
    basis, _ = torch.linalg.qr(concept)
    change = the_edit(eraser).matrix
    assert float((change - basis @ (basis.T @ change)).norm() / change.norm()) < 1e-12
    assert torch.linalg.matrix_rank(change) <= eraser.rank <= concept.shape[1]


def test_a_large_alpha_spares_all_that_the_retained_tokens_span(tiny_model: Model) -> None:
    preserved = columns(tiny_model, ["", *PRESERVE], "subject").T

    def drift(alpha: float) -> float:
        edit = the_edit(efface.erase(tiny_model, CONCEPTS, preserve=PRESERVE, method="cure", alpha=alpha))
        return float((edit(preserved) - preserved).norm())

    drifts = [drift(alpha) for alpha in (2.0, 1e3, 1e12)]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 1e-6 * drifts[0]


def test_retained_rows_and_their_gram_matrix_give_the_same_edit(tiny_model: Model) -> None:
    many = [f"{one} {two}" for one in ("red", "blue", "flat", "line") for two in ("car", "bird", "cake", "star", "dog")]
    eraser = efface.erase(tiny_model, "cat", preserve=many, method="cure")
    assert "preserve.gram" in eraser.inputs
    forget = projector(columns(tiny_model, ["cat"], "subject"), 2.0)
    expected = -(forget - forget @ projector(columns(tiny_model, ["", *many], "subject"), 2.0))
    assert float((the_edit(eraser).matrix - expected).norm() / expected.norm()) < 1e-9


def test_restoring_a_concept_is_erasing_the_others(tiny_model: Model, tmp_path: Path) -> None:
    whole = efface.erase(tiny_model, CONCEPTS, preserve=PRESERVE, method="cure")
    whole.save(tmp_path / "eraser.safetensors")
    direct = the_edit(efface.erase(tiny_model, [CONCEPTS[0], CONCEPTS[2]], preserve=PRESERVE, method="cure"))
    for source in (whole, Eraser.load(tmp_path / "eraser.safetensors")):
        torch.testing.assert_close(the_edit(source.without("van gogh")).matrix, direct.matrix, rtol=0, atol=1e-10)


def test_restoring_the_unsafe_concept_brings_back_the_others_alpha(tiny_model: Model) -> None:
    concepts = [{"name": "cat", "kind": "unsafe"}, {"name": "golf ball"}]
    whole = efface.erase(tiny_model, efface.Request.model_validate({"concepts": concepts, "method": "cure"}))
    assert whole.provenance["settings"]["alpha"] == 5.0
    rest = whole.without("cat")
    assert rest.provenance["settings"]["alpha"] == 2.0
    direct = the_edit(efface.erase(tiny_model, "golf ball", method="cure"))
    torch.testing.assert_close(the_edit(rest).matrix, direct.matrix, rtol=0, atol=1e-10)


def test_a_guide_is_said_to_be_of_no_use(tiny_model: Model) -> None:
    with pytest.warns(UserWarning, match="cure has no guides; 'dog'"):
        efface.erase(tiny_model, "cat", "dog", method="cure")


def test_alpha_below_one_is_refused() -> None:
    with pytest.raises(BadRequest, match="alpha"):
        CureConfig(alpha=0.5)
