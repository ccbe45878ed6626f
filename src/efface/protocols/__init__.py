"""Named evaluations: which images to generate, which questions to ask about them, and which numbers to report."""

from __future__ import annotations

from efface.protocols.base import EvaluationInput, Metric, Protocol
from efface.protocols.plan import BASE, DESTINATIONS, FailedImage, JudgedImage, Plan, Prepared, Probe
from efface.protocols.results import Calibration, Evaluation, Result
from efface.registry import Registry

PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    {
        name: f"efface.protocols.{name}:ENTRY"
        for name in ("ablation", "coco", "err", "i2p", "imagenette", "iterative", "memorised", "style", "unlearncanvas")
    },
    "efface.protocols",
)

__all__ = [
    "BASE",
    "DESTINATIONS",
    "PROTOCOLS",
    "Calibration",
    "Evaluation",
    "EvaluationInput",
    "FailedImage",
    "JudgedImage",
    "Metric",
    "Plan",
    "Prepared",
    "Probe",
    "Protocol",
    "Result",
]
