"""FID against scipy's matrix square root and torchmetrics, and where the square root fails."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg

from efface.errors import BadInput
from efface.metrics.features import Features
from efface.metrics.fid import ENOUGH, FeatureStatistics, fid, fid_statistic, fid_to_statistics

pytestmark = pytest.mark.filterwarnings("ignore:FID of")


class Identity(torch.nn.Identity):
    num_features = 5


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """As pytorch-fid has it."""
    S, T = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(linalg.sqrtm(S @ T))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(S + T - 2 * root))


def plain(x: np.ndarray, y: np.ndarray) -> float:
    return float(fid_statistic(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def test_agrees_with_scipy(normal: Any) -> None:
    x, y = normal(60), normal(45, mean=0.7, seed=1)
    value = fid(x, y, draws=20)
    assert value.value == pytest.approx(by_square_root(x.values, y.values), abs=1e-6)
    assert value.low <= value.value <= value.high
    assert (value.n, value.extractor) == (60, "test")


def test_agrees_with_torchmetrics(normal: Any) -> None:
    image = pytest.importorskip("torchmetrics.image.fid")
    metric = image.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    x, y = normal(60), normal(45, mean=0.7, seed=1)
    metric.update(torch.from_numpy(x.values), real=False)
    metric.update(torch.from_numpy(y.values), real=True)
    assert plain(x.values, y.values) == pytest.approx(float(metric.compute()), abs=1e-6)


def test_is_exact_with_fewer_images_than_features(normal: Any) -> None:
    """Rotated into 200 dimensions the distance stays, though the covariances are singular there."""
    x, y = normal(12, d=3).values, normal(9, d=3, mean=1, seed=1).values
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(200, 3))).Q
    assert plain(x @ rotation.T, y @ rotation.T) == pytest.approx(by_square_root(x, y), abs=1e-9)


def test_of_a_set_with_itself_is_zero_in_any_order(normal: Any) -> None:
    x = normal(30).values
    assert plain(x, x) == pytest.approx(0, abs=1e-9)
    assert plain(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_is_symmetric_and_sees_a_shift_as_its_square(normal: Any) -> None:
    x, y = normal(30).values, normal(20, mean=1, seed=1).values
    assert plain(x, y) == pytest.approx(plain(y, x), abs=1e-9)
    assert plain(x, x + 2) == pytest.approx(4 * x.shape[1], abs=1e-9)


def test_a_weight_is_a_repeated_image(normal: Any) -> None:
    x, y = normal(15).values, normal(10, seed=1).values
    w, v = np.arange(15) % 3, np.arange(10) % 2 + 1
    weighted = fid_statistic(x, y, w[None].astype(float), v[None].astype(float))[0]
    assert weighted == pytest.approx(by_square_root(np.repeat(x, w, 0), np.repeat(y, v, 0)), abs=1e-6)


@pytest.mark.filterwarnings("default:FID of")
def test_warns_of_small_sets(normal: Any) -> None:
    with pytest.warns(UserWarning, match="FID of 30 images is biased"):
        value = fid(normal(30), normal(40, seed=1), draws=20)
    assert "against 40 images" in value.note
    assert "biased" in value.note


def test_does_not_warn_of_large_sets(recwarn: pytest.WarningsRecorder) -> None:
    x = Features(np.random.default_rng(0).normal(size=(ENOUGH, 1)), "test")
    assert "biased" not in fid(x, x, draws=20).note
    assert not recwarn


def test_the_interval_covers_what_sets_of_this_size_have(normal: Any) -> None:
    truth = np.mean([plain(normal(30, 3, 0.8, s).values, normal(30, 3, 0, s + 1000).values) for s in range(300)])
    values = [fid(normal(30, 3, 0.8, s), normal(30, 3, 0, s + 1000), draws=100) for s in range(60)]
    assert sum(value.low <= truth <= value.high for value in values) >= 51


def test_statistics_that_are_kept_give_the_same_distance(normal: Any, tmp_path: Path) -> None:
    x, y = normal(60), normal(45, mean=0.7, seed=1)
    np.savez(tmp_path / "statistics.npz", mu=y.values.mean(0), sigma=np.cov(y.values, rowvar=False))
    value = fid_to_statistics(x, FeatureStatistics.load(tmp_path / "statistics.npz"), draws=20)
    assert value.value == pytest.approx(by_square_root(x.values, y.values), abs=1e-6)
    assert value.low <= value.value <= value.high
    assert "statistics; biased upwards" in value.note


def test_statistics_of_another_kind(normal: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="3 features"):
        fid_to_statistics(normal(10), FeatureStatistics(np.zeros(3), np.eye(3)), draws=20)
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    (tmp_path / "text.npz").write_text("mu")
    np.savez_compressed(tmp_path / "broken.npz", mu=np.zeros(300), sigma=np.eye(300))
    content = bytearray((tmp_path / "broken.npz").read_bytes())
    content[60:90] = bytes(byte ^ 0xFF for byte in content[60:90])
    (tmp_path / "broken.npz").write_bytes(content)
    for name in ("odd", "text", "missing", "broken"):
        with pytest.raises(BadInput, match=rf"{name}\.npz"):
            FeatureStatistics.load(tmp_path / f"{name}.npz")
