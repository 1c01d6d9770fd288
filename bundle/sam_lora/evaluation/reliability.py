"""Whether the predicted IoU means something: predicted against true IoU of the objects of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sam_lora.plots import new_figure

BINS = 10


def reliability(objects: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How well predicted IoU tells true IoU.

    Args:
        objects: rows with ``predicted_iou`` and ``true_iou``; those without a prediction are passed over.

    Returns:
        ``objects``, their number; ``correlation`` (Pearson; NaN for fewer than two objects, or where either is
        constant); ``mean_absolute_error``; ``expected_calibration_error``: the distance of mean predicted and mean
        true IoU in ten equal bins of predicted IoU, weighted by objects (Guo et al. 2017, for a regression).
    """
    predicted, true = _pairs(objects)
    if not len(predicted):
        nan = float("nan")
        return {"objects": 0, "correlation": nan, "mean_absolute_error": nan, "expected_calibration_error": nan}
    varies = len(predicted) > 1 and predicted.std() > 0 and true.std() > 0
    gaps = [share * abs(p - t) for share, p, t in bins(predicted, true)]
    return {
        "objects": len(predicted),
        "correlation": float(np.corrcoef(predicted, true)[0, 1]) if varies else float("nan"),
        "mean_absolute_error": float(np.abs(predicted - true).mean()),
        "expected_calibration_error": float(sum(gaps)),
    }


def reliabilities(objects: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """:func:`reliability` of all protocols pooled, and of each one that predicts an IoU."""
    found = {"pooled": reliability(objects)}
    for protocol in dict.fromkeys(row["protocol"] for row in objects):
        one = reliability([row for row in objects if row["protocol"] == protocol])
        if one["objects"]:
            found[protocol] = one
    return found


def bins(predicted: np.ndarray, true: np.ndarray) -> list[tuple[float, float, float]]:
    """For each bin of predicted IoU that holds something: its share of all, mean predicted and mean true IoU."""
    place = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
    return [
        (float((place == n).mean()), float(predicted[place == n].mean()), float(true[place == n].mean()))
        for n in np.unique(place)
    ]


def plot_reliability(objects: Sequence[Mapping[str, Any]]) -> Figure | None:
    """True against predicted IoU, a dot for each object, with the means of the bins; None without a prediction."""
    protocols = [p for p in dict.fromkeys(row["protocol"] for row in objects)
                 if len(_pairs([row for row in objects if row["protocol"] == p])[0])]  # fmt: skip
    if not protocols:
        return None
    figure = new_figure(3.2 * len(protocols), 3.4)
    for number, protocol in enumerate(protocols, 1):
        predicted, true = _pairs([row for row in objects if row["protocol"] == protocol])
        axes = figure.add_subplot(1, len(protocols), number)
        axes.plot([0, 1], [0, 1], color="#95a5a6", linewidth=1)
        axes.plot(np.clip(predicted, 0, 1), true, ".", color="#2471a3", markersize=3, alpha=0.4)
        found = bins(predicted, true)
        axes.plot([p for _, p, _ in found], [t for _, _, t in found], "o-", color="#c0392b", markersize=4)
        axes.set_title(protocol, fontsize=10)
        axes.set_xlabel("predicted IoU")
        axes.set_ylabel("true IoU")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
    return figure


def _pairs(objects: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([(row["predicted_iou"], row["true_iou"]) for row in objects], float).reshape(-1, 2)
    pairs = pairs[~np.isnan(pairs).any(1)]
    return pairs[:, 0], pairs[:, 1]
