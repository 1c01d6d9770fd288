"""A label map that somebody drew, as prompts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sam_lora.prompts import PromptError, box_of, corners
from sam_lora.requests import ObjectPrompts


def read_drawn(label: np.ndarray, labels: Mapping[int, str], axis: int = 2) -> list[ObjectPrompts]:
    """Read a label map that somebody drew, or a model made, as prompts: what it holds on a slice prompts that slice.

    Args:
        label: ``(I, J, K)``, integers, each value above 0 an object.
        labels: value -> name; a value without a name is called by its number.
        axis: the slice axis.

    Returns:
        One object per value, ascending.

    Raises:
        PromptError: if there is no object.
    """
    slices = np.moveaxis(label, axis, 2)
    values = [int(value) for value in np.unique(slices) if value > 0]
    if not values:
        raise PromptError("The mask that is to prompt holds no object: it is 0 everywhere.")
    objects = []
    for value in values:
        is_object: np.ndarray = slices == value
        masks = {int(k): is_object[:, :, k].T.copy() for k in np.nonzero(is_object.any((0, 1)))[0]}
        points = {k: corners(box_of(mask)) for k, mask in masks.items()}
        objects.append(ObjectPrompts(value, labels.get(value, str(value)), points, masks=masks))
    return objects
