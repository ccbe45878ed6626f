"""`efface.compose`: several erasers as one, or one with some of its concepts restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efface.api.arguments import model_from
from efface.api.erasers import eraser_list, load_eraser
from efface.api.optional import none_is_not_given
from efface.eraser.eraser import compose_erasers

if TYPE_CHECKING:
    from efface.api.arguments import DeviceLike, ModelLike
    from efface.api.erasers import EraserLike
    from efface.eraser.eraser import Eraser


@none_is_not_given
def compose(
    *erasers: EraserLike | Sequence[EraserLike],
    without: str | Sequence[str] = (),
    model: ModelLike | None = None,
    device: DeviceLike = "auto",
    force: bool = False,
) -> Eraser:
    """Compose erasers into one, without a model, and restore single concepts.

    Erasers of one method and settings are solved again together; weight changes are summed; other erasers are applied
    one after the other in the given order.

    Example:
        >>> both = efface.compose("cat.safetensors", "dog.safetensors")
        >>> dog = efface.compose(both, without="cat")

    Args:
        *erasers: Erasers or their files, or lists of these, in the order in which they are applied where the order
            matters.
        without: Concepts to restore.
        model: The model that the erasers were made for. Restoring concepts that speed, oce, negative or sld erased
            needs it.
        device: The device to open a model's name on, or an `efface.Runtime`.
        force: Compose erasers of different models too.

    Raises:
        WrongBase: The erasers were made for different models.
        BadRequest: They contradict each other, cannot act at the same time, or cannot be split.
        NeedsModel: Restoring needs the model, and none is given.
    """
    given = [one for item in erasers for one in eraser_list(item)]
    composed = compose_erasers(*map(load_eraser, given), force=force)
    if not without:
        return composed
    names = [without] if isinstance(without, str) else without
    return composed.without(*names, model=None if model is None else model_from(model, device))
