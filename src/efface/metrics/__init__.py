"""Numbers about sets of images and verdicts, each with its interval: one file a metric.

`fid`, `kid` and `cmmd` are distances of sets, of features that `features.extract` makes once; `clip_score`,
`clip_accuracy` and `lpips` are scores of images; `rates` are of verdicts; `paired` compares two erasers on the same
prompts and seeds.
"""

from efface.metrics.base import Measured, MetricEntry, Table
from efface.registry import Registry

METRICS: Registry[MetricEntry] = Registry(
    "metric",
    {name: f"efface.metrics.{name}:ENTRY" for name in ("clip_accuracy", "clip_score", "cmmd", "fid", "kid", "lpips")},
    "efface.metrics",
)

__all__ = ["METRICS", "Measured", "MetricEntry", "Table"]
