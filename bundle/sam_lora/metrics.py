"""Overlap and surface agreement of masks, with honest intervals. Undefined is NaN, never 0 or 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two binary masks of one shape; NaN where both are empty."""
    total = int(pred.sum()) + int(truth.sum())
    return float(compute_dice(_batch(pred), _batch(truth), ignore_empty=False)) if total else float("nan")


def surface_dice(pred: np.ndarray, truth: np.ndarray, tolerance: float, spacing: Sequence[float] | None) -> float:
    """Share of both surfaces that lies within a tolerance of the other (Nikolov et al. 2018).

    Args:
        pred: binary mask, 2D or 3D.
        truth: binary mask of the same shape.
        tolerance: in mm where ``spacing`` is given, else in pixels.
        spacing: mm per step along each axis of the masks; None measures in pixels.

    Returns:
        0 to 1; 0 where one mask is empty, NaN where both are.
    """
    if not pred.any() and not truth.any():
        return float("nan")
    if not pred.any() or not truth.any():
        return 0.0
    steps = None if spacing is None else list(spacing)
    value = compute_surface_dice(_batch(pred), _batch(truth), [tolerance], include_background=True, spacing=steps)
    return float(value)


def hausdorff95(pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None) -> float:
    """95th percentile of the distances from each surface to the other, the larger of both directions.

    Args:
        pred: binary mask, 2D or 3D.
        truth: binary mask of the same shape.
        spacing: mm per step along each axis of the masks; None measures in pixels.

    Returns:
        A distance in mm or pixels; NaN where a mask is empty: there is no surface to be far from.
    """
    if not pred.any() or not truth.any():
        return float("nan")
    steps = None if spacing is None else list(spacing)
    both = _batch(pred), _batch(truth)
    return float(compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=steps))


def iou(pred: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two binary masks of one shape; NaN where both are empty."""
    union = int((pred | truth).sum())
    return int((pred & truth).sum()) / union if union else float("nan")


def _batch(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]


def objects_as_batch(output: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Output transform of MONAI's metric handlers: each object of each image becomes an item ``(1, H, W)``, binary."""
    items = output if isinstance(output, list) else [output]
    pred = [mask[None] for item in items for mask in (item["pred"] > 0).float()]
    label = [mask[None] for item in items for mask in item["label"]]
    return pred, label


def nan_mean(values: Sequence[float]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def bootstrap_interval(
    rows: Sequence[Mapping[str, Any]], value: Callable[[Sequence[Mapping[str, Any]]], float], unit: str, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of a statistic by drawing whole units (patients) with replacement, 1000 times.

    Args:
        rows: measurements, several per unit.
        value: the statistic of a set of rows.
        unit: key of the rows that names their unit.
        seed: of the draws.

    Returns:
        Lower and upper bound, or None with fewer than two units: one patient says nothing about others.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[unit], []).append(row)
    units = list(groups.values())
    if len(units) < 2:
        return None
    rng = np.random.RandomState(seed)
    draws = [value([row for n in rng.randint(len(units), size=len(units)) for row in units[n]]) for _ in range(1000)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)
