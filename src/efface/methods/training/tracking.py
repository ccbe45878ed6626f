"""Trackers: logs losses and sample images to TensorBoard, trackio or Weights & Biases, through accelerate."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efface.errors import BadInput
from efface.methods.training.objective import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray


#: How a tracker is asked for images whose channels come last.
_AS_PICTURES = {"tensorboard": {"dataformats": "NHWC"}}
#: What to install for each tracker.
PACKAGES = {"tensorboard": "'efface[tracking]'", "trackio": "trackio", "wandb": "'efface[wandb]'"}


def check_tracker(config: TrainingConfig, folder: Path | None) -> None:
    """Check that the chosen tracker is installed and has a folder.

    Raises:
        BadInput: The tracker is not installed, or there is no folder.
    """
    from accelerate.tracking import get_available_trackers

    if config.report_to is None:
        return
    if config.report_to not in [str(tracker) for tracker in get_available_trackers()]:
        raise BadInput(f"report_to={config.report_to} needs a package; run `pip install {PACKAGES[config.report_to]}`.")
    if folder is None:
        raise BadInput(f"report_to={config.report_to} needs a folder; pass context=RunContext(folder=...).")


def track(accelerator: Accelerator, config: TrainingConfig, values: Mapping[str, float], step: int) -> None:
    """Log the losses of a step. The first call starts the tracker.

    TensorBoard drops its entries from that step on, which an interrupted run may have logged before. The other trackers
    begin a new run.

    Args:
        accelerator: The accelerator.
        config: The settings.
        values: The losses by name.
        step: The step.

    Raises:
        BadInput: The tracker failed, for any reason.
    """
    with _failures_are_bad_input(config):
        if not accelerator.trackers:
            settings: dict[str, Any] = {key: value for key, value in config.model_dump().items() if value is not None}
            name = Path(accelerator.project_dir or "").stem
            options = {"tensorboard": {"purge_step": step}, "wandb": {"name": name, "dir": wandb_folder()}}
            accelerator.init_trackers("efface", settings, options)
        accelerator.log(dict(values), step=step)


def track_pictures(
    accelerator: Accelerator, config: TrainingConfig, title: str, pictures: Sequence[NDArray[np.uint8]], step: int
) -> None:
    """Log images of a step, of which `track` has logged the losses. A tracker without images logs none.

    Args:
        accelerator: The accelerator.
        config: The settings.
        title: The name of the images.
        pictures: The images, (H, W, 3) each, of one size.
        step: The step.

    Raises:
        BadInput: The tracker failed, for any reason.
    """
    with _failures_are_bad_input(config):
        for tracker in accelerator.trackers:
            log_images: Any = getattr(tracker, "log_images", None)
            if log_images is not None:
                log_images({title: np.stack(pictures)}, step=step, **_AS_PICTURES.get(tracker.name, {}))


@contextmanager
def _failures_are_bad_input(config: TrainingConfig) -> Generator[None, None, None]:
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(
            f"report_to={config.report_to} failed ({reason}); fix that or leave it out, and run the same command again."
        ) from error


def wandb_folder() -> str:
    """The folder in which wandb makes its folder of the same name, which it would otherwise choose once per process."""
    return os.environ.get("WANDB_DIR") or str(Path.cwd())


def finish(accelerator: Accelerator) -> None:
    """End the trackers' runs. A failure is ignored, so that it neither loses the eraser nor hides another error."""
    for tracker in accelerator.trackers:
        with suppress(Exception):
            tracker.finish()
