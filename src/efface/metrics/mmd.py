"""The squared maximum mean discrepancy of weighted sets, for the metrics that differ in their kernel.

Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012):

    MMD^2 = sum_ij w_i w_j k(x_i, x_j) / W_xx + sum_ij v_i v_j k(y_i, y_j) / W_yy - 2 sum_ij w_i v_j k(x_i, y_j) / W_xy

where every W is the sum of its weights. The unbiased estimator leaves out the pairs of an image with itself, which in a
resample holds for all its copies.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efface.metrics.bootstrap import Array

#: k of rows a (n, d) and b (m, d), (n, m).
Kernel = Callable[[Array, Array], Array]

_ROWS = 1024


def terms(kernel: Kernel, x: Array, y: Array, w: Array, v: Array, unbiased: bool) -> Array:
    """Numerators and denominators of the three means, (3, 2, B), which add up over subsets.

    Args:
        kernel: The kernel.
        x: (n, d).
        y: (m, d).
        w: How often each x occurs in each of B resamples, (B, n).
        v: How often each y occurs, (B, m).
        unbiased: Leave out the pairs of an image with itself.
    """
    return np.array(
        [
            _mean(kernel, x, x, w, w, distinct=unbiased),
            _mean(kernel, y, y, v, v, distinct=unbiased),
            _mean(kernel, x, y, w, v, distinct=False),
        ]
    )


def discrepancy(parts: Array) -> Array:
    """MMD^2 of each resample, (B,), of the sums (3, 2, B) of `terms`."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one image only has no pairs; it is not used
        xx, yy, xy = parts[:, 0] / parts[:, 1]
    return xx + yy - 2 * xy


def _mean(kernel: Kernel, a: Array, b: Array, w: Array, v: Array, distinct: bool) -> NDArray[np.float64]:
    """sum_ij w_i v_j k(a_i, b_j) and sum_ij w_i v_j, (2, B), a block of rows at a time."""
    numerator = np.zeros(len(w))
    for start in range(0, len(a), _ROWS):
        block = kernel(a[start : start + _ROWS], b)
        if distinct:
            rows = np.arange(len(block))
            block[rows, start + rows] = 0
        numerator += ((w[:, start : start + _ROWS] @ block) * v).sum(1)
    denominator = w.sum(1) * v.sum(1) - ((w * v).sum(1) if distinct else 0)
    return np.stack([numerator, denominator])
