"""Measurements of masks against the truth of a case, whoever made the masks. Undefined is NaN, never 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sam_lora.evaluation.protocols import WHOLE
from sam_lora.evaluation.segmenting import GOALS, Answer
from sam_lora.evaluation.truth import CaseTruth
from sam_lora.metrics import dice, hausdorff95, iou, nan_mean, surface_dice

NAN = float("nan")
FIELDS = ("protocol", "case", "patient", "label", "value", "slices", "dice", "surface_dice", "hd95", "missed", "false_positive",
          "mean_slice_dice", "clicks_85", "clicks_90", "failed_85", "failed_90", "tolerance", "unit")  # fmt: skip
OBJECT_FIELDS = ("protocol", "case", "patient", "label", "value", "slice", "pixels", "dice", "true_iou", "predicted_iou",
                 "clicks_85", "clicks_90", "failed_85", "failed_90")  # fmt: skip


def measure_objects(truth: CaseTruth, protocol: str, answer: Answer) -> list[dict[str, Any]]:
    """One row for each object of each measured slice, see :data:`OBJECT_FIELDS`.

    Args:
        truth: of the case.
        protocol: that was answered.
        answer: the masks.

    Returns:
        Rows; ``clicks_85`` is the number of clicks to Dice 0.85, or the most that were tried, and ``failed_85`` 1
        where they did not reach it.
    """
    rows = []
    for value in truth.slices:
        for k in truth.measured(value):
            expected = truth.mask(value, k)
            mask = answer.masks.get(value, {}).get(k, np.zeros_like(expected))
            row = {"protocol": protocol, "case": truth.case.name, "patient": truth.patient, "label": truth.names[value],
                   "value": value, "slice": k, "pixels": int(expected.sum()), "dice": dice(mask, expected), "true_iou": iou(mask, expected),
                   "predicted_iou": answer.iou.get((value, k), NAN)}  # fmt: skip
            reached = answer.clicks.get((value, k))
            for n, goal in enumerate(GOALS):
                count = reached[n] if reached else None
                row[f"clicks_{goal * 100:.0f}"] = NAN if not reached else count or truth.rules.max_clicks
                row[f"failed_{goal * 100:.0f}"] = NAN if not reached else float(count is None)
            rows.append(row)
    return rows


def measure_case(
    truth: CaseTruth, protocol: str, answer: Answer, objects: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each label of a case, see :data:`FIELDS`.

    Dice, Surface Dice and HD95 are of the label's volume: of its slices with an object of ``min_pixels`` in protocols
    that ask slice by slice, of all measured slices in the others. With slices left out a volume has gaps, and a gap
    is no surface: Surface Dice and HD95 are NaN then. A label that the case does not have has a false-positive volume
    (mm3, or pixels; measured slices stand for those left out) and nothing else; no other row has one.

    Args:
        truth: of the case.
        protocol: that was answered.
        answer: the masks.
        objects: what :func:`measure_objects` made of them.
    """
    rows = []
    for value in truth.asked if protocol == "automatic" else truth.slices:
        mine = [row for row in objects if row["value"] == value]
        row = {"protocol": protocol, "case": truth.case.name, "patient": truth.patient, "label": truth.names[value],
               "value": value, "slices": len(mine), "mean_slice_dice": nan_mean([o["dice"] for o in mine])}  # fmt: skip
        for key in ("clicks_85", "clicks_90", "failed_85", "failed_90"):
            row[key] = nan_mean([o[key] for o in mine])
        volume = _measure_volume(truth, protocol, value, answer)
        if volume is not None:
            rows.append({**row, **volume})
    return rows


def _measure_volume(truth: CaseTruth, protocol: str, value: int, answer: Answer) -> dict[str, Any] | None:
    """What is measured of a label's volume; None where slices were left out and it is on none of the others."""
    slices = truth.chosen if protocol in WHOLE else truth.measured(value)
    found = answer.masks.get(value, {})
    size = truth.case.image.shape[1:3]
    used = [k for k in slices if k in found or k in truth.slices.get(value, []) or truth.mask(value, k).any()]
    depth = range(used[0], used[-1] + 1) if used else range(1)
    pred, expected = np.zeros((len(depth), *size), bool), np.zeros((len(depth), *size), bool)
    for k in used:
        expected[k - depth[0]] = truth.mask(value, k)
        if k in found:
            pred[k - depth[0]] = found[k]
    spacing = truth.spacing
    unit = "pixels" if spacing is None else "mm"
    result = {"dice": NAN, "surface_dice": NAN, "hd95": NAN, "missed": NAN, "false_positive": NAN,
              "tolerance": truth.rules.tolerance, "unit": unit}  # fmt: skip
    if value not in truth.present:
        voxel = 1.0 if spacing is None else float(np.prod(spacing))
        left_out = len(truth.case.image) / len(truth.chosen)
        return {**result, "false_positive": float(pred.sum()) * voxel * left_out}
    if not expected.any():
        return None
    result |= {"dice": dice(pred, expected), "missed": float(not pred.any())}
    if len(truth.case.image) == 1:  # an image, not a volume of one slice: its surface is an outline
        pred, expected, spacing = pred[0], expected[0], None if spacing is None else spacing[1:]
    if len(used) == len(depth) or pred.ndim == 2:
        result["surface_dice"] = surface_dice(pred, expected, truth.rules.tolerance, spacing)
        result["hd95"] = hausdorff95(pred, expected, spacing)
    return result
