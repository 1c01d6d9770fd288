"""Metric laws by hand-made masks; undefined is NaN."""

import math

import numpy as np
import pytest
import torch

from sam_lora.metrics import bootstrap_interval, dice, nan_mean, objects_as_batch, surface_dice


def square(start, size=4, shape=(16, 16)):
    mask = np.zeros(shape, bool)
    mask[start : start + size, start : start + size] = True
    return mask


def test_dice_by_hand():
    assert dice(square(2), square(2)) == 1
    assert dice(square(2), square(4)) == pytest.approx(2 * 4 / 32)
    assert dice(square(0), square(8)) == 0
    assert dice(square(0) & False, square(2)) == 0
    assert math.isnan(dice(square(0) & False, square(0) & False))
    one = np.zeros((4, 4), bool)
    one[1, 1] = True
    assert dice(one, one) == 1


def test_surface_dice_measures_in_mm_along_each_axis():
    truth, moved = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    truth[3:9, 3:9], moved[5:11, 3:9] = True, True  # two rows further
    assert surface_dice(moved, truth, 2.0, None) == 1
    assert surface_dice(moved, truth, 1.0, None) < 1
    assert surface_dice(moved, truth, 2.0, [3.0, 1.0]) < 1
    assert surface_dice(moved, truth, 2.0, [1.0, 3.0]) == 1
    assert surface_dice(truth & False, truth, 1.0, None) == 0
    assert surface_dice(truth, truth & False, 1.0, None) == 0
    assert math.isnan(surface_dice(truth & False, truth & False, 1.0, None))


def test_surface_dice_of_volumes():
    truth = np.zeros((6, 10, 10), bool)
    truth[1:5, 2:8, 2:8] = True
    shifted = np.roll(truth, 1, 0)
    assert surface_dice(truth, truth, 0.5, [2.0, 1.0, 1.0]) == 1
    assert surface_dice(shifted, truth, 1.0, [1.0, 1.0, 1.0]) == 1
    assert surface_dice(shifted, truth, 1.0, [2.0, 1.0, 1.0]) < 1


def test_masks_that_touch_the_border():
    edge = np.zeros((8, 8), bool)
    edge[:, :3] = True
    assert surface_dice(edge, edge, 0.5, None) == 1


def test_undefined_values_do_not_count():
    assert nan_mean([0.5, float("nan"), 1.0]) == 0.75
    assert math.isnan(nan_mean([float("nan")]))


def test_the_bootstrap_draws_patients_not_rows():
    rows = [{"patient": p, "dice": v} for p, v in (("a", 0.2), ("a", 0.2), ("b", 0.8), ("b", 0.8))]
    low, high = bootstrap_interval(rows, lambda some: nan_mean([r["dice"] for r in some]), "patient")
    assert (low, high) == (pytest.approx(0.2), pytest.approx(0.8))  # two patients: everything from all a to all b
    assert bootstrap_interval(rows[:2], lambda some: 0.0, "patient") is None


def test_objects_become_items_of_their_own():
    output = [{"pred": torch.tensor([[[1.0]], [[-1.0]]]), "label": torch.tensor([[[1.0]], [[0.0]]])},
              {"pred": torch.tensor([[[2.0]]]), "label": torch.tensor([[[0.0]]])}]  # fmt: skip
    pred, label = objects_as_batch(output)
    assert [p.tolist() for p in pred] == [[[[1.0]]], [[[0.0]]], [[[1.0]]]]
    assert len(label) == 3
