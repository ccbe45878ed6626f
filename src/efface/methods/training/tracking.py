"""Trackers: losses as TensorBoard, trackio or Weights & Biases show them, through accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadInput
from efface.methods.training.objective import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_tracker(config: TrainingConfig, folder: Path | None) -> None:
    """Refuse a tracker that is not installed, or has nowhere to write.

    Raises:
        BadInput: That.
    """
    from accelerate.tracking import get_available_trackers

    if config.report_to is None:
        return
    if config.report_to not in [str(tracker) for tracker in get_available_trackers()]:
        raise BadInput(f"report_to={config.report_to} needs a package; run `pip install {config.report_to}`.")
    if folder is None:
        raise BadInput(f"report_to={config.report_to} needs a folder; pass context=RunContext(folder=...).")


def track(accelerator: Accelerator, config: TrainingConfig, values: Mapping[str, float], step: int) -> None:
    """Log a step; the first one starts the tracker, which then knows where a training was taken up.

    TensorBoard is told to forget that step and all after it, which an interrupted run may have logged before. The
    others begin a new run.

    Raises:
        BadInput: The tracker failed, whatever with.
    """
    try:
        if not accelerator.trackers:
            settings: dict[str, Any] = {key: value for key, value in config.model_dump().items() if value is not None}
            accelerator.init_trackers("efface", settings, {"tensorboard": {"purge_step": step}})
        accelerator.log(dict(values), step=step)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"report_to={config.report_to} failed ({reason}); mend that or leave it out, and run the same again."
        ) from error


def finish(accelerator: Accelerator) -> None:
    """End the trackers' runs; one that cannot does not cost the eraser, nor hide why a training ended."""
    for tracker in accelerator.trackers:
        with suppress(Exception):
            tracker.finish()
