"""Voxels to pixels, simulated prompts, and requests: right ones kept, wrong ones refused with a sentence."""

import math

import numpy as np
import pytest
import torch

from sam_lora.prompts import (
    MODES,
    PromptError,
    Prompts,
    box_of,
    jitter_box,
    prompts_from_requests,
    refuse_unprompted_labels,
    sample_prompts,
)

SHAPE = (10, 20, 5)


def masks():
    result = np.zeros((2, 20, 10), bool)
    result[0, 3:9, 2:5] = True
    result[1, 12:15, 6:9] = True
    return result


def test_a_click_maps_to_its_own_voxel_and_back():
    for voxel in np.ndindex(SHAPE):
        asked = prompts_from_requests({"foreground": [list(voxel)]}, SHAPE, {})
        (x, y), k = asked[voxel[2]].prompts.points[0, 0].tolist(), voxel[2]
        assert (math.floor(x), math.floor(y), k) == voxel
        assert (x % 1, y % 1) == (0.5, 0.5)  # the centre of the pixel


@pytest.mark.parametrize(("axis", "index", "x", "y"), [(2, 2, 3, 7), (1, 7, 3, 2), (0, 3, 7, 2)])
def test_for_another_slice_axis_the_remaining_two_in_order_are_x_and_y(axis, index, x, y):
    asked = prompts_from_requests({"foreground": [[3, 7, 2]]}, SHAPE, {}, axis)
    assert list(asked) == [index]
    assert asked[index].prompts.points.tolist() == [[[x + 0.5, y + 0.5]]]


def test_the_box_of_a_mask_ends_one_past_its_last_pixel():
    assert box_of(masks()[0]) == (2, 3, 5, 9)
    with pytest.raises(PromptError, match="A mask without a single pixel has no box"):
        box_of(np.zeros((3, 3)))


def test_a_box_request_is_inclusive_sorted_clipped_and_prompts_its_middle_slice():
    asked = prompts_from_requests({"roi": [4, 2, 8, 3, 9, 1]}, SHAPE, {})
    assert list(asked) == [2]  # slices 1 to 4 after clipping, the middle one below
    assert asked[2].prompts.points.tolist() == [[[2, 3], [5, 9]]]
    assert asked[2].prompts.point_labels.tolist() == [[2, 3]]


def test_the_box_of_a_mask_and_a_request_of_its_voxels_agree():
    mask = masks()[0]
    js, is_ = np.nonzero(mask)
    roi = [int(v) for v in (is_.min(), is_.max(), js.min(), js.max(), 1, 1)]
    points = prompts_from_requests({"roi": roi}, SHAPE, {})[1].prompts.points[0].flatten().tolist()
    assert tuple(points) == box_of(mask)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_points_inside_the_slice_and_hits_the_object(mode):
    for seed in range(20):
        prompts = sample_prompts(masks(), mode, np.random.RandomState(seed), jitter=0.3, num_points=2)
        for mask, points, labels in zip(masks(), prompts.points, prompts.point_labels, strict=True):
            for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
                if label == 1:
                    assert mask[math.floor(y), math.floor(x)]
                elif label >= 2:
                    assert 0 <= x <= 10
                    assert 0 <= y <= 20


def labels_of(mode):
    return sample_prompts(masks()[:1], mode, np.random.RandomState(0)).point_labels[0].tolist()


def test_what_each_mode_gives():
    assert [labels_of(m) for m in ("no", "box", "full_box", "point", "pt_box")] == [
        [-2],
        [2, 3],
        [2, 3],
        [1],
        [1, 2, 3],
    ]
    full = sample_prompts(masks()[:1], "full_box", np.random.RandomState(0)).points[0].tolist()
    assert full == [[0, 0], [10, 20]]
    mixed = {
        tuple(sample_prompts(masks()[:1], "mix", np.random.RandomState(s)).point_labels[0].tolist()) for s in range(30)
    }
    assert mixed == {(2, 3), (1,), (1, 2, 3)}


def test_jitter_goes_both_ways_relative_to_the_box_and_follows_its_random_state():
    box, rng = (40.0, 40.0, 60.0, 80.0), np.random.RandomState(0)
    moved = np.array([jitter_box(box, 0.1, (100, 100), rng) for _ in range(500)]) - box
    assert (abs(moved) <= [2, 4, 2, 4]).all()
    assert (moved.min(0) < [-1.8, -3.6, -1.8, -3.6]).all()
    assert (moved.max(0) > [1.8, 3.6, 1.8, 3.6]).all()
    again = jitter_box(box, 0.1, (100, 100), np.random.RandomState(0))
    assert again == jitter_box(box, 0.1, (100, 100), np.random.RandomState(0))


def test_a_jittered_box_stays_inside_and_open():
    rng = np.random.RandomState(0)
    for _ in range(200):
        x0, y0, x1, y1 = jitter_box((0, 0, 1, 1), 3.0, (5, 4), rng)
        assert 0 <= x0 < x0 + 1 <= x1 <= 4
        assert 0 <= y0 < y0 + 1 <= y1 <= 5


def test_objects_with_fewer_points_are_padded_with_a_label_of_their_own():
    prompts = Prompts.of([[(1, 2, 1)], [(3, 4, 2), (5, 6, 3)], []])
    assert prompts.point_labels.tolist() == [[1, -2], [2, 3], [-2, -2]]
    assert prompts.points.dtype == torch.float32


def test_several_requests_share_a_slice():
    labels = {3: "spleen", 7: "liver"}
    requests = [{"label": "liver", "foreground": [[1, 1, 0]]}, {"label": "spleen", "roi": [0, 3, 0, 3, 0, 0]}]
    asked = prompts_from_requests(requests, SHAPE, labels)
    assert asked[0].values == (7, 3)
    assert asked[0].prompts.point_labels.tolist() == [[1, -2], [2, 3]]


def test_names_nobody_declared_get_values_in_order():
    requests = [{"label": "a", "foreground": [[1, 1, 0]]}, {"label": "b", "foreground": [[2, 2, 0]]},
                {"label": "a", "foreground": [[1, 1, 4]]}]  # fmt: skip
    asked = prompts_from_requests(requests, SHAPE, {})
    assert (asked[0].values, asked[4].values) == ((1, 2), (1,))


def test_an_unnamed_object_is_not_taken_for_a_named_one():
    asked = prompts_from_requests([{"foreground": [[1, 1, 0]]}, {"label": "a", "foreground": [[2, 2, 0]]}], SHAPE, {})
    assert asked[0].values == (1, 2)


def test_a_background_click_alone_on_a_slice_asks_for_nothing_there():
    assert list(prompts_from_requests({"foreground": [[1, 1, 0]], "background": [[2, 2, 3]]}, SHAPE, {})) == [0]


def test_an_image_takes_two_dimensional_points():
    asked = prompts_from_requests({"foreground": [[3, 7]], "roi": [1, 4, 2, 9]}, (10, 20), {})
    assert asked[0].prompts.points.tolist() == [[[3.5, 7.5], [1, 2], [5, 10]]]


REFUSED = {
    "nothing": ([], "There is no prompt"),
    "empty": ({}, "the request has neither foreground points nor a roi"),
    "background only": ({"background": [[1, 1, 1]]}, "has neither foreground points nor a roi"),
    "outside": (
        {"foreground": [[1, 20, 1]]},
        r"foreground point \[1, 20, 1\] of the request lies outside the volume of 10 x 20 x 5",
    ),
    "negative": ({"background": [[1, -1, 1]], "foreground": [[1, 1, 1]]}, r"background point \[1, -1, 1\]"),
    "nan": ({"foreground": [[1, float("nan"), 1]]}, "a foreground point of the request must be finite"),
    "infinite box": ({"roi": [0, float("inf"), 0, 1, 0, 1]}, "roi of the request must be finite"),
    "two numbers": ({"foreground": [[1, 2]]}, r"must have 3 numbers, i, j, k, got \[1, 2\]"),
    "words": ({"foreground": [["a", "b", "c"]]}, "must be a list of numbers"),
    "not a list": ({"foreground": "1,2,3"}, "foreground of the request must be a list of voxels"),
    "box outside": ({"roi": [10, 12, 0, 1, 0, 1]}, r"roi \[10, 12, 0, 1, 0, 1\] of the request lies outside"),
    "short box": ({"roi": [0, 1, 0, 1]}, "roi of the request must be i0, i1, j0, j1, k0, k1"),
    "unknown label": (
        {"label": "kidney", "foreground": [[1, 1, 1]]},
        "asks for label 'kidney'; known are spleen, liver",
    ),
    "no label of two": ({"foreground": [[1, 1, 1]]}, "asks for label None; known are spleen, liver"),
    "label list": (
        {"label": ["liver"], "foreground": [[1, 1, 1]]},
        r"label of the request must be a name, got \['liver'\]",
    ),
    "typo": ({"forground": [[1, 1, 1]]}, "the request has the key 'forground'; 'foreground' is meant"),
    "text": ("liver", "Prompts must be a request or a list of requests, got 'liver'"),
    "second": ([{"label": "liver", "roi": [0, 1, 0, 1, 0, 1]}, 5], "request 1 must be an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_is_refused_with_a_sentence(case):
    requests, sentence = REFUSED[case]
    if isinstance(requests, dict) and "label" not in case:
        requests = {"label": "liver", **requests}
    with pytest.raises(PromptError, match=sentence):
        prompts_from_requests(requests, SHAPE, {1: "spleen", 2: "liver"})


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        PromptError, match="prompt_mode must be one of no, box, full_box, point, pt_box, mix, got 'boxes'"
    ):
        sample_prompts(masks(), "boxes", np.random.RandomState(0))


def test_no_prompt_with_several_labels_is_refused_naming_them():
    refuse_unprompted_labels("no", {1: "spleen"})
    refuse_unprompted_labels("box", {1: "spleen", 2: "liver"})
    with pytest.raises(PromptError, match="cannot tell 2 labels apart: spleen, liver"):
        refuse_unprompted_labels("no", {1: "spleen", 2: "liver"})
