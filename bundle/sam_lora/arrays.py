"""Prompts as arrays, the way segment-anything takes them, as the requests that say the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from sam_lora.prompts import PromptError


def requests_of_arrays(points: Any, point_labels: Any, boxes: Any) -> list[dict[str, Any]]:
    """The requests that say what arrays say, one per object.

    Args:
        points: voxels (i, j) or (i, j, k): ``(N, 2)`` or ``(N, 3)`` of one object, ``(P, N, 2)`` or ``(P, N, 3)`` of P.
        point_labels: ``(N,)`` or ``(P, N)``: 1 foreground, 0 background; None: all foreground.
        boxes: ``(4,)``, ``(6,)``, ``(P, 4)`` or ``(P, 6)``: i0, i1, j0, j1[, k0, k1], the ends included.

    Raises:
        PromptError: if shapes are others or do not fit each other, or a label is neither 0 nor 1.
    """
    rows = None if points is None else _listed(points, 2, "points", "(N, 2), (N, 3), (P, N, 2) or (P, N, 3)")
    rois = None if boxes is None else _listed(boxes, 1, "boxes", "(4,), (6,), (P, 4) or (P, 6)")
    if point_labels is None:
        labels = [np.ones(len(row)) for row in rows or []]
    else:
        labels = _listed(point_labels, 1, "point_labels", "(N,) or (P, N)")
    if [len(one) for one in labels] != [len(row) for row in rows or []]:
        raise PromptError("point_labels must hold one number per point.")
    if any(value not in (0, 1) for one in labels for value in one):
        raise PromptError("point_labels must be 1 for the object or 0 for the background.")
    if rows is not None and rois is not None and len(rows) != len(rois):
        raise PromptError(
            f"points are of {len(rows)} objects and boxes of {len(rois)}: give as many of one as of the other."
        )
    requests: list[dict[str, Any]] = [{"label": str(n)} for n in range(len(rows if rows is not None else rois or []))]
    for request, row, one in zip(requests, rows or [], labels, strict=False):
        request["foreground"] = [list(p) for p, value in zip(row, one, strict=True) if value == 1]
        request["background"] = [list(p) for p, value in zip(row, one, strict=True) if value == 0]
    for request, roi in zip(requests, rois or [], strict=False):
        request["roi"] = list(roi)
    return requests


def _listed(value: Any, dimensions: int, name: str, shapes: str) -> list[np.ndarray]:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{name} must be an array of numbers of shape {shapes}, got {value!r}.") from error
    if array.ndim == dimensions:
        array = array[None]
    if array.ndim != dimensions + 1 or not array.size:
        raise PromptError(f"{name} must have the shape {shapes}, got {np.shape(value)}.")
    return list(array)
