"""Predicted IoU against true IoU, by hand."""

import math

import numpy as np
import pytest

from sam_lora.evaluation.reliability import plot_reliability, reliabilities, reliability


def objects(predicted, true, protocol="clicks_1"):
    return [{"protocol": protocol, "predicted_iou": p, "true_iou": t} for p, t in zip(predicted, true, strict=True)]


def test_a_prediction_that_is_right():
    found = reliability(objects([0.2, 0.5, 0.9], [0.2, 0.5, 0.9]))
    assert found["objects"] == 3
    assert found["correlation"] == pytest.approx(1)
    assert found["mean_absolute_error"] == found["expected_calibration_error"] == 0


def test_a_prediction_that_is_too_high_by_a_tenth():
    true = np.linspace(0.1, 0.8, 29)
    found = reliability(objects(true + 0.1, true))
    assert found["correlation"] == pytest.approx(1)
    assert found["mean_absolute_error"] == pytest.approx(0.1)
    assert found["expected_calibration_error"] == pytest.approx(0.1)


def test_right_on_average_is_calibrated_and_not_exact():
    found = reliability(objects([0.5, 0.5, 0.5, 0.5], [0.4, 0.6, 0.3, 0.7]))
    assert found["expected_calibration_error"] == pytest.approx(0)
    assert found["mean_absolute_error"] == pytest.approx(0.15)
    assert math.isnan(found["correlation"])  # a constant has none


def test_without_a_prediction_nothing_is_said():
    rows = objects([0.9, 1.2], [0.8, 1.0]) + objects([math.nan], [0.1], "propagated")
    found = reliabilities(rows)
    assert list(found) == ["pooled", "clicks_1"]
    assert found["pooled"]["objects"] == 2
    assert math.isnan(reliability([])["mean_absolute_error"])
    assert plot_reliability(rows[2:]) is None
    assert len(plot_reliability(rows).axes) == 1
