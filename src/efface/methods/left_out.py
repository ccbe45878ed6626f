"""The warning about preserved prompts that a method does not protect."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

_LISTED = 10  # prompts


def warn_left_out(method: str, prompts: Sequence[str], which: str, stacklevel: int = 4) -> None:
    """Warn that preserved prompts are not protected, with all of their names, or the first ten.

    Args:
        method: The name of the method.
        prompts: The prompts; none is no warning.
        which: What they have in common, as a relative clause.
        stacklevel: The number of calls from the user's code to this function.
    """
    if not prompts:
        return
    names = ", ".join(f"'{prompt}'" for prompt in prompts[:_LISTED])
    more = f" and {len(prompts) - _LISTED} more" if len(prompts) > _LISTED else ""
    warnings.warn(f"{method} does not protect preserved prompts {which}: {names}{more}.", stacklevel=stacklevel)
