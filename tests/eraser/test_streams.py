"""Models that read their text by several streams: every method edits each, and knows nothing of the family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import BadInput, BadRequest, Eraser, Model, TextEdit, WeightEdit, open_model
from efface.edits.kinds import Edit
from efface.eraser.certificate import certify, uncertified
from efface.eraser.streams import join, split
from efface.methods import METHODS
from efface.models.text_gram import text_gram

Tiny = Callable[..., Any]
CONCEPTS, PRESERVE = ("cat", "golf ball"), ("a horse", "red car")
# The certified eraser keeps the empty prompt: a T5's 256 tokens of it, which leave nothing of a tiny model's width.
OF_WEIGHTS = [name for name in METHODS.names() if METHODS.get(name).edit != "guard" and name != "certified"]
# These train on a U-Net, edit the text encoder itself, or search its vocabulary.
OF_ONE_FAMILY = [name for name in OF_WEIGHTS if METHODS.get(name).families or name == "nullspace"]
NOT_FOR_FLUX = [name for name in OF_ONE_FAMILY if "flux" not in (METHODS.get(name).families or ())]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "uce": [{}, {"variant": "window", "technique": "tensor"}],
    "speed": [{}, {"params": "KV", "aug_num": 0}],
    "cure": [{"tokens": "window"}],
}

pytestmark = pytest.mark.filterwarnings("ignore:.*(which the eraser does not edit|has no guides)")


def predict(model: Model) -> Tensor:
    """The transformer's prediction for two prompts, whatever the family."""
    prompts = ["a cat", "a house"]
    text = {argument: model.reading(stream).embed(prompts).tokens for stream, argument in model.streams.items()}
    text["pooled_projections"] = text["pooled_projections"][:, 0]
    step = torch.full((2,), 0.5)
    if model.family == "sd3":
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return model.denoiser(latents, timestep=step * 1000, **text).sample
    latents = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
    words = torch.zeros(text["encoder_hidden_states"].shape[1], 3)
    return model.denoiser(latents, timestep=step, img_ids=ids, txt_ids=words, **text).sample


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("method", [name for name in OF_WEIGHTS if name not in OF_ONE_FAMILY])
def test_every_method_edits_every_stream(tiny: Tiny, family: str, method: str, tmp_path: Path) -> None:
    model = open_model(tiny(family))
    plain = predict(model)
    for settings in SETTINGS.get(method, [{}]):
        eraser = efface.erase(model, CONCEPTS, "dog", preserve=PRESERVE, method=method, **settings)
        assert list(split(eraser)) == ["text", "pooled"]
        with eraser.attach(model):
            attached = predict(model)
        assert bool(attached.isfinite().all())
        assert not torch.allclose(attached, plain, rtol=1e-4, atol=1e-6)
        baked = eraser.bake(model)
        written = predict(model)
        baked.undo()
        torch.testing.assert_close(written, attached, rtol=1e-3, atol=1e-4)
        assert torch.equal(predict(model), plain)
        eraser.save(tmp_path / "eraser.safetensors", force=True)
        again = Eraser.load(tmp_path / "eraser.safetensors")
        assert (again.hash, again.rank, again.provenance) == (eraser.hash, eraser.rank, eraser.provenance)
        again.attach(model).detach()
        check_restoring(again, model, settings)


@pytest.mark.parametrize("method", NOT_FOR_FLUX)
def test_methods_of_one_family_say_so(tiny: Tiny, method: str) -> None:
    with pytest.raises(BadInput, match=r"Stable Diffusion|CLIP"):
        efface.erase(open_model(tiny("flux")), "cat", method=method)


def check_restoring(eraser: Eraser, model: Model, settings: dict[str, Any]) -> None:
    """One concept restored is the other one erased alone, or the refusal says why not."""
    if (
        METHODS.get(eraser.method).combine is None
        or eraser.method == "oce"
        or (eraser.method == "speed" and not settings)
    ):
        with pytest.raises(BadRequest, match="split"):
            eraser.without("cat")
        return
    rest = eraser.without("cat")
    alone = efface.erase(model, "golf ball", "dog", preserve=PRESERVE, method=eraser.method, **settings)
    assert rest.concepts == ("golf ball",)
    assert len(rest.edits) == len(alone.edits)
    for one, other in zip(rest.edits, alone.edits, strict=True):
        found, expected = changes(one), changes(other)
        # Embeddings are of single precision, and round differently in another batch.
        assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert eraser.only(*CONCEPTS).hash == eraser.hash


def changes(edit: Edit) -> Tensor:
    """What an edit adds, as a matrix."""
    if isinstance(edit, TextEdit):
        return edit.matrix
    assert isinstance(edit, WeightEdit)
    if edit.delta is not None:
        return edit.delta
    assert edit.up is not None
    assert edit.down is not None
    return edit.up @ edit.down


def test_joining_and_splitting_are_inverse(tiny: Tiny, tiny_model: Model) -> None:
    eraser = efface.erase(tiny("flux"), CONCEPTS, "dog", preserve=PRESERVE)
    eraser = uncertified(eraser)  # a certificate is of all streams
    again = join(split(eraser), eraser.base)
    assert again.hash == eraser.hash
    assert again.provenance == eraser.provenance
    assert again.inputs.keys() == eraser.inputs.keys()
    assert again.base.of_streams.keys() == {"text", "pooled"}
    alone = efface.erase(tiny_model, "cat", "dog")
    assert split(alone)["text"].edits == alone.edits
    assert join(split(alone), alone.base).hash == alone.hash


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_composed_erasers_are_the_eraser_of_all_their_concepts(tiny: Tiny, family: str, tmp_path: Path) -> None:
    model = open_model(tiny(family))
    one, other = (efface.erase(model, concept, "dog", variant="window") for concept in CONCEPTS)
    both, direct = efface.compose(one, other), efface.erase(model, CONCEPTS, "dog", variant="window")
    assert list(split(both)) == ["text", "pooled"]
    for found, expected in zip(both.edits, direct.edits, strict=True):
        assert float((changes(found) - changes(expected)).norm() / changes(expected).norm()) < 1e-5
    both.attach(model).detach()
    cured = efface.erase(model, "a red car", method="cure")
    with pytest.warns(UserWarning, match="one after the other"):
        efface.compose(both, cured).save(tmp_path / "composed.safetensors")
    again = Eraser.load(tmp_path / "composed.safetensors")
    again.attach(model).detach()
    assert again.without("a red car").hash == both.hash
    for left, right in zip(again.without("cat").parts[0].edits, other.edits, strict=True):
        assert float((changes(left) - changes(right)).norm() / changes(right).norm()) < 1e-5


def test_a_model_read_by_another_stream_is_the_same_model(tiny: Tiny) -> None:
    model = open_model(tiny("flux"))
    pooled = model.reading("pooled")
    assert (model.stream, pooled.stream) == ("text", "pooled")
    assert pooled.denoiser is model.denoiser
    assert pooled.reading("text").width == model.width == 32
    assert pooled.width == 16
    assert model.reading("text") is model


@pytest.fixture
def short_sd3(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The tiny SD3 with eight tokens of T5."""
    monkeypatch.setattr("efface.models.families.sd3.T5_TOKENS", 8)
    return open_model(tiny("sd3"))


def test_the_certified_eraser_is_of_each_stream(short_sd3: Model) -> None:
    eraser = efface.erase(short_sd3, CONCEPTS, "dog", method="certified")
    for edit in eraser.edits:
        assert isinstance(edit, TextEdit)
        reader = short_sd3.reading(edit.stream)
        moved, aims = edit(reader.embed(CONCEPTS).last_tokens.double()), reader.embed(["dog", "dog"]).last_tokens
        torch.testing.assert_close(moved, aims.double(), rtol=1e-6, atol=1e-6)
        stored = reader.embed(["", "dog"]).take([0]).tokens[0].double()
        torch.testing.assert_close(edit(stored), stored, rtol=1e-6, atol=1e-6)
    certificate = eraser.certificate
    assert certificate is not None
    assert 0 < (certificate["cat"]["free"] or 0) <= (certificate["cat"]["ceiling"] or 0)
    both, rest = eraser.only(*CONCEPTS), eraser.without("cat")
    assert both.hash == eraser.hash
    again, expected = rest.certificate or {}, certify(short_sd3, rest).certificate or {}
    assert again["golf ball"]["free"] == pytest.approx(expected["golf ball"]["free"])


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_certificate_sums_over_all_streams(tiny: Tiny, family: str) -> None:
    """Against sum |W (M e - c)|^2 / sum |W c|^2 written out, with the e of least squares for each token."""
    model = open_model(tiny(family))
    # Takes the tokens out wholly, so that M is singular.
    options: dict[str, Any] = {"tokens": "last", "retain_empty": False, "alpha": 1e18}
    eraser = efface.erase(model, CONCEPTS, "dog", method="cure", certify=True, **options)
    missed, whole, guides = (torch.zeros(2, dtype=torch.float64) for _ in range(3))
    for edit in eraser.edits:
        assert isinstance(edit, TextEdit)
        reader = model.reading(edit.stream)
        ((_, weight),) = reader.text_weights()
        weight = weight.double()
        operator = weight @ (torch.eye(edit.dim, dtype=torch.float64) + edit.matrix)
        for index, name in enumerate(CONCEPTS):
            for c, g in zip(reader.embed([name]).last_tokens, reader.embed(["dog"]).last_tokens, strict=True):
                values = weight @ c.double()
                best = torch.linalg.lstsq(operator, values, driver="gelsd", rcond=1e-10).solution
                missed[index] += (operator @ best - values).square().sum()
                guides[index] += (weight @ (c - g).double()).square().sum()
                whole[index] += values.square().sum()
    certificate = eraser.certificate
    assert certificate is not None
    for index, name in enumerate(CONCEPTS):
        assert certificate[name]["free"] == pytest.approx(float((missed / whole)[index].sqrt()), rel=1e-5)
        assert certificate[name]["ceiling"] == pytest.approx(float((guides / whole)[index].sqrt()), rel=1e-6)
        assert certificate[name]["text"] is None  # T5 ends in no LayerNorm
        assert (certificate[name]["free"] or 0) > 0.1
    request = eraser.request.model_copy(update={"pooled": False})
    alone = efface.erase(model, request, certify=True).certificate
    assert alone is not None
    assert 0 < (alone["cat"]["free"] or 0) < (certificate["cat"]["free"] or 0)


def test_each_stream_has_its_own_gram(tiny: Tiny) -> None:
    model = open_model(tiny("sd3"))
    for stream in model.streams:
        ((_, weight),) = model.reading(stream).text_weights()
        gram = text_gram(model.reading(stream))
        torch.testing.assert_close(gram.matrix, weight.double().T @ weight.double(), rtol=1e-12, atol=1e-12)


def test_a_guard_acts_once_and_needs_cross_attention(tiny: Tiny) -> None:
    for family, method, ok in (("sdxl", "adavd", True), ("flux", "adavd", False), ("flux", "negative", True)):
        eraser = efface.erase(tiny(family), "cat", method=method)
        assert len(eraser.edits) == 1
        if ok:
            eraser.attach(tiny(family)).detach()
        else:
            with pytest.raises(BadInput, match="cross-attention"):
                eraser.attach(tiny(family))
