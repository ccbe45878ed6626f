"""S against the sum written out, its cache, and that it reads no more than it needs."""

import shutil
from pathlib import Path

import pytest
import torch

from efface import BadInput, Model, open_model
from efface.models.text_gram import TextGram, cached_gram, text_gram


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))


def test_it_is_the_sum_over_the_layers(tiny_model: Model) -> None:
    gram = text_gram(tiny_model)
    stacked = torch.cat([weight.double() for _, weight in tiny_model.text_weights()])
    torch.testing.assert_close(gram.matrix, stacked.T @ stacked, rtol=1e-13, atol=1e-13)
    assert gram.matrix.dtype == torch.float64
    token = torch.randn(1, tiny_model.width, dtype=torch.float64)
    torch.testing.assert_close(gram.norms(token)[0], (stacked @ token[0]).norm(), rtol=1e-12, atol=0)


def test_the_root_is_a_root_also_where_layers_read_little() -> None:
    weight = torch.randn(5, 9, dtype=torch.float64)
    gram = TextGram(weight.T @ weight)
    assert gram.root.shape == (5, 9)
    torch.testing.assert_close(gram.root.T @ gram.root, gram.matrix)
    torch.testing.assert_close(gram.root @ gram.inverse_root, torch.eye(5, dtype=torch.float64))
    assert float((weight @ gram.null_space).norm()) < 1e-6
    assert gram.null_space.shape == (9, 4)


def test_it_is_streamed_while_the_denoiser_stays_on_disk(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("S needs the text-reading weights only")

    model = open_model(tiny_sd)
    monkeypatch.setattr(type(model), "denoiser", property(refuse))
    text_gram(model)


def test_it_is_summed_once_whatever_holds_the_weights(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_gram(open_model(tiny_sd))
    monkeypatch.setattr("efface.models.text_gram._summed", lambda _: pytest.fail("S was cached"))
    loaded = open_model(tiny_sd)
    assert loaded.denoiser is not None
    again = text_gram(loaded)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.matrix, first.matrix)


def test_other_weights_have_another_fingerprint(tiny_sd: Path, other_sd: Path) -> None:
    assert text_gram(open_model(tiny_sd)).fingerprint != text_gram(open_model(other_sd)).fingerprint


def test_a_damaged_cache_is_made_again(tiny_model: Model, tmp_path: Path) -> None:
    first = text_gram(tiny_model)
    (stored,) = (tmp_path / "cache" / "text_gram").glob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:100])
    assert torch.equal(text_gram(tiny_model).matrix, first.matrix)


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "file"))
    assert text_gram(tiny_model).matrix.isfinite().all()


def test_weights_that_are_not_finite_are_refused(tiny_model: Model) -> None:
    name = tiny_model.text_parameters()[0]
    with torch.no_grad():
        tiny_model.denoiser.get_parameter(name)[0, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        text_gram(tiny_model)


def test_what_is_not_in_the_cache_is_not_read_to_find_out(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the cache is asked without reading weights")

    folder = open_model(tiny_sd)
    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "text_weights", refuse)
        assert cached_gram(folder) is None
    first = text_gram(folder)
    monkeypatch.setattr(type(folder), "text_weights", refuse)
    for model in (folder, open_model(tiny_sd)):
        found = cached_gram(model)
        assert found is not None
        assert torch.equal(found.matrix, first.matrix)
        assert found.fingerprint == first.fingerprint


def test_files_that_changed_are_not_taken_for_what_they_were(tmp_path: Path, tiny_sd: Path) -> None:
    copy = shutil.copytree(tiny_sd, tmp_path / "copy")
    text_gram(open_model(copy))
    assert cached_gram(open_model(copy)) is not None
    assert cached_gram(open_model(tiny_sd)) is None  # its weights are the same, which only reading them would tell
    (weights,) = (copy / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes())
    assert cached_gram(open_model(copy)) is None


def test_weights_in_memory_are_known_again_until_one_number_changes(tiny_model: Model) -> None:
    assert tiny_model.denoiser is not None
    assert cached_gram(tiny_model) is None
    first = text_gram(tiny_model)
    found = cached_gram(tiny_model)
    assert found is not None
    assert found.fingerprint == first.fingerprint
    with torch.no_grad():
        tiny_model.denoiser.get_parameter(tiny_model.text_parameters()[0])[-1, -2] += 1
    assert cached_gram(tiny_model) is None
