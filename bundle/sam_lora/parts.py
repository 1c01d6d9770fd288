"""An object of a slice in the connected parts that a person asks for one by one."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def parts_of(mask: np.ndarray, min_pixels: int) -> list[np.ndarray]:
    """The connected parts of an object on a slice, as a person would draw a box around each.

    Args:
        mask: ``(H, W)``, bool or 0 and 1, not empty. Pixels that touch at a corner are connected.
        min_pixels: smaller parts are left out; where all are smaller, the largest stays.

    Returns:
        Masks ``(H, W)`` of the same type, from the upper edge down.
    """
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    kept = np.flatnonzero(sizes >= min(min_pixels, sizes.max()))
    return [mask * (numbers == n + 1) for n in kept]
