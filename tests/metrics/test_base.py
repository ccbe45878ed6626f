"""Tables keep extractors apart; the registry lists the metrics."""

import pytest

from efface.errors import BadInput, UnknownName
from efface.metrics import METRICS, Measured, Table

CLIP = Measured(1.0, 0.5, 1.5, 10, "score", "clip a")
INCEPTION = Measured(20.0, 18.0, 22.0, 10, "score", "inception b", "note")


def test_a_table_of_two_extractors_is_refused() -> None:
    with pytest.raises(BadInput, match="inception b, clip a"):
        Table({"uce": {"fid": INCEPTION}, "esd": {"fid": CLIP}})
    with pytest.raises(BadInput, match="mix"):
        Table({"uce": {"fid": INCEPTION, "kid": CLIP}})


def test_a_table_names_its_extractor() -> None:
    table = Table({"uce": {"fid": CLIP, "kid": CLIP}, "esd": {"fid": CLIP}})
    assert table.extractor == "clip a"
    assert table.as_dict()["erasers"]["esd"]["fid"] == {
        **dict(value=1.0, low=0.5, high=1.5, n=10, extractor="clip a", note="")
    }
    assert Table({}).extractor == ""


def test_split_makes_a_table_an_extractor() -> None:
    one, other = Table.split({"uce": {"fid": CLIP, "lpips": INCEPTION}, "esd": {"fid": CLIP}})
    assert one.rows == {"uce": {"fid": CLIP}, "esd": {"fid": CLIP}}
    assert other.rows == {"uce": {"lpips": INCEPTION}}


def test_the_registry_lists_the_metrics() -> None:
    assert set(METRICS.names()) >= {"clip_accuracy", "clip_score", "cmmd", "fid", "kid", "lpips"}
    with pytest.raises(UnknownName, match="kid"):
        METRICS.get("dik")
