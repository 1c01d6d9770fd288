"""Where a person would click: into the middle of the object, then into the middle of what is wrong."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sam_lora.prompts import BACKGROUND, FOREGROUND, Point, click


def first_click(truth: np.ndarray) -> Point:
    """A click on the point deepest inside the largest part of an object ``(H, W)``, which is not empty."""
    row, column = deepest(largest_part(truth))
    return click(column, row, FOREGROUND)


def next_click(predicted: np.ndarray, truth: np.ndarray) -> Point | None:
    """The click that corrects an answer.

    Args:
        predicted: mask ``(H, W)``, bool.
        truth: of the same shape.

    Returns:
        A click in the middle of the largest connected region that is wrong: foreground where the object was missed,
        background where the mask leaked. None where nothing is wrong.
    """
    missed, leaked = largest_part(truth & ~predicted), largest_part(predicted & ~truth)
    if not missed.any() and not leaked.any():
        return None
    is_missed = bool(missed.sum() >= leaked.sum())
    row, column = deepest(missed if is_missed else leaked)
    return click(column, row, FOREGROUND if is_missed else BACKGROUND)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask ``(H, W)``; the first one of several; empty where the mask is."""
    parts, count = ndimage.label(mask)
    if not count:
        return np.zeros_like(mask, bool)
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def deepest(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel furthest from the outside of a mask; beyond the picture's edge is outside."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)
