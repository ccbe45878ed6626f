"""Metrics of sets of images and of verdicts, each with a 95% interval: one file per metric.

`fid`, `kid` and `cmmd` are distances between two sets, computed on features that `features.extract` makes once;
`clip_score`, `clip_accuracy` and `lpips` are scores of images; `rates` summarises verdicts; `paired` compares two
erasers on the same prompts and seeds.
"""

from __future__ import annotations

from efface.metrics.base import Measured, MetricEntry, Table
from efface.registry import Registry

METRICS: Registry[MetricEntry] = Registry(
    "metric",
    {name: f"efface.metrics.{name}:ENTRY" for name in ("clip_accuracy", "clip_score", "cmmd", "fid", "kid", "lpips")},
    "efface.metrics",
)

__all__ = ["METRICS", "Measured", "MetricEntry", "Table"]
