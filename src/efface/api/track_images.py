"""Generated images in Weights & Biases (`efface generate --report-to wandb`).

Each image is logged with its prompt as the caption. The run's configuration has the settings of the first image.
The environment variables of wandb have their usual effect: `WANDB_MODE=offline` writes the run to the folder `wandb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import BadInput
from efface.methods.training.tracking import PACKAGES, wandb_folder

if TYPE_CHECKING:
    from efface.generation import Image

_OF_ONE_IMAGE = {"file_name", "key", "prompt", "seed", "concept"}


def check_image_tracker(report_to: str | None, folder: Path | None) -> None:
    """Check that images can be logged.

    Raises:
        BadInput: The tracker is unknown or not installed, or the images are in memory.
    """
    if report_to is None:
        return
    if report_to != "wandb":
        raise BadInput(f"Images are logged to wandb, and not to '{report_to}'; use --report-to wandb.")
    if find_spec("wandb") is None:
        raise BadInput(f"report_to=wandb needs a package; run `pip install {PACKAGES['wandb']}`.")
    if folder is None:
        raise BadInput("report_to=wandb logs images of a folder; give one.")


def track_images(images: Sequence[Image], name: str) -> None:
    """Log images as one run.

    Args:
        images: The images, in a folder.
        name: The name of the run.

    Raises:
        BadInput: The tracker failed, for any reason. The images are in their folder nevertheless.
    """
    logged = [image for image in images if image.path is not None]
    if not logged:
        return
    wandb: Any = import_module("wandb")
    settings = {key: value for key, value in logged[0].row.items() if key not in _OF_ONE_IMAGE}
    try:
        with wandb.init(project="efface", name=name, config=settings, dir=wandb_folder()) as run:
            run.log({"images": [wandb.Image(str(one.path), caption=str(one.row["prompt"])) for one in logged]})
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"The images are in their folder, but report_to=wandb failed ({reason}).") from error
