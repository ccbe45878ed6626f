"""UCE against both published scripts, written out literally: layer by layer, matrices built and inverted each time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadRequest, Model, Request, open_model
from efface.methods.closed_form.tokens import prompt_pairs
from efface.methods.closed_form.uce import UceConfig
from support import relative, the_edit

PAIRS = [("cat", "dog"), ("golf ball", "a red car in the house"), ("van gogh", "")]
PRESERVE = ["a horse", "parrot", "blue bird"]


def embedded(model: Model, prompt: str) -> tuple[Tensor, int]:
    """All tokens of a prompt (T, d), and the index of its last subject token, counted by the attention mask."""
    mask = model.tokenizer([prompt], padding="max_length", max_length=model.max_tokens)["attention_mask"]
    return model.embed([prompt]).tokens[0].double(), sum(mask[0]) - 2


def script_of_2025(
    model: Model,
    weight: Tensor,
    pairs: Sequence[tuple[str, str]],
    preserve: Sequence[str],
    a: float,
    b: float,
    lamb: float,
) -> Tensor:
    """One token a prompt; the sums start at the ridge's terms and grow pair by pair."""
    left, right = lamb * weight, lamb * torch.eye(weight.shape[1], dtype=torch.float64)
    for scale, old, new in [(a, *pair) for pair in pairs] + [(b, prompt, prompt) for prompt in preserve]:
        (c, at), (g, to) = embedded(model, old), embedded(model, new)
        left = left + scale * torch.outer(weight @ g[to], c[at])
        right = right + scale * torch.outer(c[at], c[at])
    return left @ torch.linalg.inv(right)


def script_of_2023(
    model: Model,
    weight: Tensor,
    pairs: Sequence[tuple[str, str]],
    preserve: Sequence[str],
    a: float,
    b: float,
    lamb: float,
) -> Tensor:
    """Aligned windows from the last subject token to the last padding; preserved prompts with all their tokens."""
    left, right = lamb * weight, lamb * torch.eye(weight.shape[1], dtype=torch.float64)
    for old, new in pairs:
        (c, at), (g, to) = embedded(model, old), embedded(model, new)
        end = model.max_tokens - 1
        longer = max(at, to)
        window = c[at : end - (longer - at) + 1]
        target = g[to : end - (longer - to) + 1]
        assert len(window) == len(target)
        for token, aim in zip(window, target, strict=True):
            left = left + a * torch.outer(weight @ aim, token)
            right = right + a * torch.outer(token, token)
    for prompt in ["", *preserve]:
        for token in embedded(model, prompt)[0]:
            left = left + b * torch.outer(weight @ token, token)
            right = right + b * torch.outer(token, token)
    return left @ torch.linalg.inv(right)


def weights(model: Model) -> list[Tensor]:
    return [weight.double() for _, weight in model.text_weights()]


@pytest.mark.parametrize(
    ("variant", "script", "scales", "published"),
    [
        ("token", script_of_2025, {}, (1.0, 1.0, 0.5)),
        ("token", script_of_2025, {"erase_scale": 2.0, "preserve_scale": 0.3, "lamb": 0.1}, (2.0, 0.3, 0.1)),
        ("window", script_of_2023, {}, (1.0, 0.25, 0.5)),
        ("window", script_of_2023, {"erase_scale": 0.5, "preserve_scale": 0.1, "lamb": 0.1}, (0.5, 0.1, 0.1)),
    ],
)
def test_it_is_the_published_script(
    tiny_model: Model, variant: str, script: Any, scales: dict[str, Any], published: tuple[float, float, float]
) -> None:
    old, new = zip(*PAIRS, strict=True)
    eraser = efface.erase(tiny_model, old, new, preserve=PRESERVE, variant=variant, **scales)
    for weight in weights(tiny_model):
        expected = script(tiny_model, weight, PAIRS, PRESERVE, *published)
        assert relative(the_edit(eraser).on(weight), expected) < 1e-10
        assert relative(the_edit(eraser).on(weight) - weight, expected - weight) < 1e-8


def test_published_defaults(tiny_model: Model) -> None:
    def settings(variant: str, preserve: Sequence[str] = ()) -> dict[str, Any]:
        eraser = efface.erase(tiny_model, "cat", "dog", preserve=preserve, variant=variant)
        return eraser.provenance["settings"]

    defaults = UceConfig()
    assert (defaults.variant, defaults.erase_scale, defaults.lamb, defaults.expand_prompts) == ("token", 1, 0.5, False)
    assert settings("token")["preserve_scale"] == 1.0
    assert settings("window")["preserve_scale"] == 1.0  # the empty prompt alone
    assert settings("window", ["dog house", "a car"])["preserve_scale"] == pytest.approx(1 / 3)
    assert settings("window", [f"a car {letter}" for letter in "abcdefghijklmno"])["preserve_scale"] == 0.1
    assert settings("window", [""])["preserve_scale"] == 1.0  # the empty prompt is not preserved twice


@pytest.mark.parametrize(
    ("kind", "guide", "template"),
    [
        ("object", "", "photo of cat"),
        ("unsafe", "", "photo of cat"),
        ("memorised", "", "photo of cat"),
        ("style", "art", "style of cat"),
    ],
)
def test_guides_and_templates_follow_the_kind(kind: Any, guide: str, template: str) -> None:
    concept = efface.Concept(name="cat", kind=kind)
    assert prompt_pairs(concept, expand=False) == [("cat", guide)]
    expanded = prompt_pairs(concept, expand=True)
    assert len(expanded) == 6
    assert (template, template.replace("cat", guide)) in expanded


def test_expanded_prompts_are_edited_beside_the_concept(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", expand_prompts=True)
    pairs = [("cat", ""), *((f"{t} of cat", f"{t} of ") for t in ("image", "photo", "portrait", "picture", "painting"))]
    weight = weights(tiny_model)[0]
    expected = script_of_2025(tiny_model, weight, pairs, [], 1.0, 1.0, 0.5)
    assert relative(the_edit(eraser).on(weight), expected) < 1e-10
    assert eraser.rank == 6


def test_with_no_guide_a_concept_becomes_the_start_token(tiny_model: Model) -> None:
    """The reference's last subject token of the empty prompt is the start token."""
    edit = the_edit(efface.erase(tiny_model, "cat", lamb=1e-9))
    found, expected = tiny_model.embed(["cat"]).last_tokens.double(), tiny_model.embed([""]).tokens[:, 0].double()
    assert relative(edit(found), expected) < 1e-6


def test_the_denoiser_is_not_loaded(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("erasing by uce reads the text encoder only")

    model = open_model(tiny_sd)
    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    monkeypatch.setattr(type(model), "text_weights", refuse)
    for variant in ("token", "window"):
        assert efface.erase(model, "cat", "dog", preserve=PRESERVE, variant=variant).rank > 0


def test_rank_is_at_most_the_edited_tokens(tiny_model: Model) -> None:
    assert efface.erase(tiny_model, ["cat", "dog", "horse"], to="car", preserve=["house"]).rank == 3
    window = efface.erase(tiny_model, "cat", "a red car", variant="window")
    assert window.rank == tiny_model.max_tokens - 3


def test_preserving_spares_the_preserved(tiny_model: Model) -> None:
    preserved = tiny_model.embed(PRESERVE).last_tokens
    drift = [
        float((the_edit(eraser)(preserved) - preserved).norm())
        for eraser in (
            efface.erase(tiny_model, "cat", "dog"),
            efface.erase(tiny_model, "cat", "dog", preserve=PRESERVE),
            efface.erase(tiny_model, "cat", "dog", preserve=PRESERVE, preserve_scale=1e4),
        )
    ]
    assert drift == sorted(drift, reverse=True)
    assert drift[2] < 0.01 * drift[0]


def test_many_preserved_prompts_take_bounded_memory(tiny_model: Model) -> None:
    preserve = [f"{one}{two} car" for one in "abcdefghijklmnopqrst" for two in "abcdefghijklmnopqrst"]
    eraser = efface.erase(tiny_model, "cat", "dog", preserve=preserve)
    assert eraser.inputs["preserve.gram"].shape == (tiny_model.width, tiny_model.width)
    weight = weights(tiny_model)[0]
    expected = script_of_2025(tiny_model, weight, [("cat", "dog")], preserve, 1.0, 1.0, 0.5)
    # Of a long list, no padding is embedded, which rounds otherwise.
    assert relative(the_edit(eraser).on(weight) - weight, expected - weight) < 1e-5


def test_clip_skip_reaches_every_embedding(tiny_model: Model) -> None:
    skipped = efface.erase(tiny_model, "cat", "dog", clip_skip=1)
    assert torch.equal(skipped.inputs["edited"], tiny_model.embed(["cat"], clip_skip=1).last_tokens.double())
    skipped.attach(tiny_model).detach()


@pytest.mark.parametrize(
    ("concept", "options", "message"),
    [
        ("cat " * 40, {}, "at most 12"),
        ("cat", {"lamb": -1.0}, "lamb"),
        ("cat", {"lamb": float("nan")}, "lamb"),
        ("cat", {"variant": "both"}, "variant"),
        ("cat", {"lambda_": 1.0}, "known are.*lamb"),
        ("cat", {"technique": "magic"}, "technique"),
        ("cat", {"erase_scale": 0.0}, "erase_scale"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(
    tiny_model: Model, concept: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        efface.erase(tiny_model, concept, **options)
    assert "\n" not in str(caught.value)


def test_debiasing_is_refused_until_it_is_there(tiny_model: Model) -> None:
    with pytest.raises(BadRequest, match="debias"):
        efface.erase(tiny_model, Request.model_validate({"concepts": ["cat"], "goal": "debias"}))


def test_options_may_be_words_as_from_the_command_line(tiny_model: Model) -> None:
    eraser = efface.erase(tiny_model, "cat", "dog", lamb="0.1", expand_prompts="true", variant="window")
    assert eraser.provenance["settings"]["lamb"] == 0.1
    assert eraser.provenance["settings"]["expand_prompts"] is True


def test_many_concepts_are_embedded_without_their_padding(tiny_model: Model) -> None:
    """Which rounds otherwise, and is the same edit."""
    names = [f"{sort} {thing}" for sort in ("red", "blue", "old", "new") for thing in ("cat", "dog", "car", "cake")]
    names += [f"a {name}" for name in names] + ["horse"]
    many = efface.erase(tiny_model, names, to="house")
    few = [efface.erase(tiny_model, names[i : i + 11], to="house") for i in range(0, len(names), 11)]
    rows = torch.cat([eraser.inputs["edited"] for eraser in few])
    torch.testing.assert_close(many.inputs["edited"], rows, rtol=1e-5, atol=1e-6)
    assert torch.equal(many.inputs["owner"], torch.arange(len(names)))
