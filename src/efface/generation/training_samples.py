"""Sample images of a training: what the model generates with the edits of the present step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efface.apply.attachment import Attachment
from efface.errors import BadFile, BadInput
from efface.files import atomic, why_not_written
from efface.generation.folder import write_picture
from efface.generation.jobs import Job
from efface.generation.sampling import sample

if TYPE_CHECKING:
    from efface.edits.kinds import Edit
    from efface.generation.folder import Pixels
    from efface.models import Model


def draw_samples(model: Model, prompt: str, n: int, edits: Sequence[Edit], folder: Path) -> list[Pixels]:
    """Generate images with the default sampling of a model (`efface.progress.Draw`).

    Args:
        model: The model, which stays as it is.
        prompt: The prompt.
        n: The number of images.
        edits: The edits.
        folder: The folder, which is created.

    Returns:
        The images, (H, W, 3) each.

    Raises:
        BadInput: An image has values that are not finite.
        BadFile: The images cannot be written.
    """
    jobs = [Job(prompt, seed) for seed in range(n)]
    with Attachment([edits], model):
        images = dict(sample(model, jobs))
    pictures = [image for _, image in sorted(images.items()) if image is not None]
    if len(pictures) < n:
        raise BadInput("A sample image is not finite; the training diverges. Try a lower learning rate.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"Cannot write to {folder}: {why_not_written(error)}.") from error
    for index, picture in enumerate(pictures):
        with atomic(folder / f"{index}.png") as temporary:
            write_picture(temporary, picture)
    return pictures
