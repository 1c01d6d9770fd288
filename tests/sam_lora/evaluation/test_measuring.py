"""Metric laws by hand-made cases, and against scipy's own numbers; any method's masks are measured."""

import math

import numpy as np
import pytest
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from sam_lora.evaluation import Answer, measure_answers
from sam_lora.metrics import hausdorff95, iou, surface_dice
from tests.sam_lora.evaluation.toys import truth_of

EMPTY = np.zeros((4, 12, 12), np.uint8)


def cube(k=(1, 3), j=(3, 8), i=(3, 8)):
    label = EMPTY.copy()
    label[slice(*k), slice(*j), slice(*i)] = 1
    return label


def measured(label, predicted, protocol="oracle_box", spacing=(0.5, 1.0, 3.0), labels=None, **rules):
    truth = truth_of(label, spacing, labels, protocols=[protocol], **rules)
    masks = {v: {k: predicted[k] == v for k in range(len(predicted))} for v in (1, 2) if (predicted == v).any()}
    return {row["label"]: row for row in measure_answers(truth, {protocol: Answer(masks)}).rows}


def test_a_perfect_answer():
    row = measured(cube(), cube())["1"]
    assert (row["dice"], row["surface_dice"], row["hd95"], row["missed"], row["slices"]) == (1, 1, 0, 0, 2)
    assert math.isnan(row["false_positive"])


def test_a_miss_has_no_distance():
    row = measured(cube(), EMPTY)["1"]
    assert (row["dice"], row["surface_dice"], row["missed"], row["mean_slice_dice"]) == (0, 0, 1, 0)
    assert math.isnan(row["hd95"])


def test_an_absent_label_has_a_false_positive_volume_and_no_dice():
    rows = measured(cube(), cube() + 2 * cube(i=(9, 11)), "automatic", labels={1: "a", 2: "b"})
    assert rows["a"]["dice"] == 1
    assert rows["b"]["false_positive"] == 2 * 5 * 2 * 1.5
    rows = measured(EMPTY, EMPTY, "automatic", labels={1: "a", 2: "b"})  # both empty
    assert [rows[name]["false_positive"] for name in "ab"] == [0, 0]
    for key in ("dice", "surface_dice", "hd95", "missed", "mean_slice_dice"):
        assert math.isnan(rows["b"][key]), key
    assert measured(EMPTY, cube(), "oracle_box", labels={1: "a"}) == {}  # nobody asked for it
    assert measured(EMPTY, cube(), "automatic", None, {1: "a"})["a"]["false_positive"] == 50  # in voxels


def test_distances_follow_each_axis_spacing():
    moved = {"k": cube(k=(2, 4)), "j": cube(j=(4, 9)), "i": cube(i=(4, 9))}
    hd95 = {axis: measured(cube(), label, "automatic")["1"]["hd95"] for axis, label in moved.items()}
    assert hd95 == {"k": 3.0, "j": 1.0, "i": 0.5}
    tight = {axis: measured(cube(), label, "automatic")["1"]["surface_dice"] for axis, label in moved.items()}
    assert (tight["i"], tight["j"]) == (1, 1)  # within the tolerance of 1 mm
    assert tight["k"] < 1
    row = measured(cube(), moved["k"], "automatic", None)["1"]
    assert (row["hd95"], row["unit"]) == (1, "pixels")
    assert measured(cube(), moved["k"], "automatic", None, tolerance=0.5)["1"]["surface_dice"] < 1


def test_slices_between_the_asked_ones_do_not_count_unless_the_protocol_answers_for_the_volume():
    thin = cube()
    thin[3, 5, 5] = 1  # one pixel on a slice of its own
    assert measured(thin, cube(), min_pixels=2)["1"]["dice"] == 1
    assert measured(thin, cube(), "automatic", min_pixels=2)["1"]["dice"] == pytest.approx(100 / 101)
    row = measured(cube(k=(0, 4)), cube(k=(0, 4)), every=2)["1"]
    assert (row["slices"], row["dice"]) == (2, 1)
    assert math.isnan(row["surface_dice"])  # a gap is no surface
    assert math.isnan(row["hd95"])


def test_a_label_on_none_of_the_measured_slices_has_no_row():
    label = cube(k=(0, 4))
    label[3, 0, 0] = 2
    for protocol in ("oracle_box", "automatic"):
        assert list(measured(label, label, protocol, every=4)) == ["1"]
        assert list(measured(label, label, protocol)) == ["1", "2"]


def test_one_voxel_and_masks_that_touch_the_border():
    one = EMPTY.copy()
    one[0, 0, 0] = 1
    assert measured(one, one)["1"]["surface_dice"] == measured(one, one)["1"]["dice"] == 1
    other = EMPTY.copy()
    other[0, 0, 2] = 1
    row = measured(one, other, "automatic")["1"]
    assert (row["dice"], row["hd95"], row["surface_dice"]) == (0, 1.0, 1)  # two steps of 0.5 mm, within 1 mm
    edge = cube(k=(0, 4), j=(0, 12), i=(0, 6))
    wider = cube(k=(0, 4), j=(0, 12), i=(0, 8))
    assert measured(edge, wider, "automatic", tolerance=5.0)["1"]["surface_dice"] == 1
    assert measured(edge, edge, "automatic")["1"]["hd95"] == 0


def test_a_picture_has_an_outline_not_a_surface():
    label, moved = cube()[1:2], cube(j=(4, 9))[1:2]
    row = measured(label, moved, spacing=None)["1"]
    assert (row["hd95"], row["unit"], row["slices"]) == (1, "pixels", 1)
    assert measured(label, label, spacing=None, every=3)["1"]["surface_dice"] == 1


def test_object_rows_hold_predicted_and_true_iou():
    truth = truth_of(cube(), protocols=["jittered_box"])
    masks = {1: {1: truth.mask(1, 1), 2: np.roll(truth.mask(1, 2), 1, 0)}}
    first, second = measure_answers(truth, {"jittered_box": Answer(masks, {(1, 1): 0.9})}).objects
    assert (first["slice"], first["predicted_iou"], first["true_iou"], first["pixels"]) == (1, 0.9, 1, 25)
    assert second["true_iou"] == pytest.approx(20 / 30)
    assert math.isnan(second["predicted_iou"])


def test_iou_by_hand():
    assert iou(cube() > 0, cube(i=(5, 10)) > 0) == pytest.approx(3 / 7)
    assert math.isnan(iou(EMPTY > 0, EMPTY > 0))


@pytest.mark.parametrize("seed", range(3))
def test_surfaces_are_scipys_and_monais(seed):
    rng = np.random.RandomState(seed)
    pred, truth = (ndimage.gaussian_filter(rng.rand(2, 8, 16, 16), (0, 1, 2, 2)) > 0.5) & (rng.rand(2, 1, 1, 1) > -1)
    spacing = [3.0, 0.7, 1.1]
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, truth)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    forth, back = away[1][edges[0]], away[0][edges[1]]
    by_hand = max(np.quantile(forth, 0.95), np.quantile(back, 0.95))
    assert hausdorff95(pred, truth, spacing) == pytest.approx(by_hand, rel=1e-5)
    within = ((forth <= 1.5).sum() + (back <= 1.5).sum()) / (len(forth) + len(back))
    assert surface_dice(pred, truth, 1.5, spacing) == pytest.approx(within, rel=1e-6)
    import torch

    both = [torch.from_numpy(mask).float()[None, None] for mask in (pred, truth)]
    monai_hd = compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)
    monai_sd = compute_surface_dice(*both, [1.5], include_background=True, spacing=spacing)
    assert (hausdorff95(pred, truth, spacing), surface_dice(pred, truth, 1.5, spacing)) == (
        float(monai_hd),
        float(monai_sd),
    )


def test_measured_slices_stand_for_those_left_out_in_a_false_positive_volume():
    names, found = {1: "a"}, EMPTY.copy()
    found[:, 2:4, 2:7] = 1  # 10 pixels on each of 4 slices
    for every in (1, 2, 3):
        row = measured(EMPTY, found, "automatic", spacing=None, labels=names, every=every)["a"]
        assert row["false_positive"] == 40
    picture = measured(EMPTY[:1], found[:1], "automatic", spacing=None, labels=names, every=3)["a"]
    assert picture["false_positive"] == 10


def test_a_slice_left_out_in_the_middle_leaves_no_surface():
    label = cube(k=(0, 4))
    label[1, 3:8, 4:8] = 0  # 5 pixels are left there
    row = measured(label, label, min_pixels=6)["1"]
    assert row["dice"] == 1
    assert math.isnan(row["surface_dice"])
    assert math.isnan(row["hd95"])
