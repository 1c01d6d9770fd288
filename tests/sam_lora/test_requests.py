"""Requests: voxels to pixels and slices; right ones kept, wrong ones refused with a sentence."""

import math

import numpy as np
import pytest

from sam_lora.drawn import read_drawn
from sam_lora.prompts import PromptError, box_of
from sam_lora.requests import read_requests

SHAPE = (10, 20, 5)


def test_a_click_maps_to_its_own_voxel_and_back():
    for voxel in np.ndindex(SHAPE):
        (one,) = read_requests({"foreground": [list(voxel)]}, SHAPE, {})
        ((k, ((x, y, _),)),) = one.points.items()
        assert (math.floor(x), math.floor(y), k) == voxel
        assert (x % 1, y % 1) == (0.5, 0.5)  # the centre of the pixel


@pytest.mark.parametrize(("axis", "index", "x", "y"), [(2, 2, 3, 7), (1, 7, 3, 2), (0, 3, 7, 2)])
def test_for_another_slice_axis_the_remaining_two_in_order_are_x_and_y(axis, index, x, y):
    (one,) = read_requests({"foreground": [[3, 7, 2]], "roi": [3, 4, 7, 9, 2, 2]}, SHAPE, {}, axis)
    assert one.points[index][0] == (x + 0.5, y + 0.5, 1)
    first, last = [3, 7, 2], [4, 9, 2]
    others = [a for a in range(3) if a != axis]
    corner = [(*(first[a] for a in others), 2), (*(last[a] + 1 for a in others), 3)]
    assert one.points[(first[axis] + last[axis]) // 2][-2:] == corner
    assert one.bounds == (None if first[axis] == last[axis] else (first[axis], last[axis]))


def test_a_box_request_is_inclusive_sorted_clipped_and_prompts_its_middle_slice():
    (one,) = read_requests({"roi": [4, 2, 8, 3, 9, 1]}, SHAPE, {})
    assert one.points == {2: [(2, 3, 2), (5, 9, 3)]}  # slices 1 to 4 after clipping, the middle one below
    assert one.bounds == (1, 4)
    assert read_requests({"roi": [2, 4, 3, 8, 2, 2]}, SHAPE, {})[0].bounds is None


def test_the_box_of_a_mask_and_a_request_of_its_voxels_agree():
    mask = np.zeros((20, 10), bool)
    mask[3:9, 2:5] = True
    js, is_ = np.nonzero(mask)
    roi = [int(v) for v in (is_.min(), is_.max(), js.min(), js.max(), 1, 1)]
    (x0, y0, _), (x1, y1, _) = read_requests({"roi": roi}, SHAPE, {})[0].points[1]
    assert (x0, y0, x1, y1) == box_of(mask)


def test_several_requests_share_a_slice():
    labels = {3: "spleen", 7: "liver"}
    requests = [{"label": "liver", "foreground": [[1, 1, 0]]}, {"label": "spleen", "roi": [0, 3, 0, 3, 0, 0]}]
    liver, spleen = read_requests(requests, SHAPE, labels)
    assert [(one.value, one.name) for one in (liver, spleen)] == [(7, "liver"), (3, "spleen")]
    assert list(liver.points) == list(spleen.points) == [0]


def test_names_nobody_declared_get_values_in_order():
    requests = [{"label": "a", "foreground": [[1, 1, 0]]}, {"label": "b", "foreground": [[2, 2, 0]]},
                {"label": "a", "foreground": [[1, 1, 4]]}]  # fmt: skip
    assert [one.value for one in read_requests(requests, SHAPE, {})] == [1, 2, 1]


def test_an_unnamed_object_is_not_taken_for_a_named_one():
    asked = read_requests([{"foreground": [[1, 1, 0]]}, {"label": "a", "foreground": [[2, 2, 0]]}], SHAPE, {})
    assert [one.value for one in asked] == [1, 2]


def test_a_background_click_alone_on_a_slice_asks_for_nothing_there_and_is_kept():
    (one,) = read_requests({"foreground": [[1, 1, 0]], "background": [[2, 2, 3]]}, SHAPE, {})
    assert one.prompted == [0]
    assert one.points[3] == [(2.5, 2.5, 0)]


def test_an_image_takes_two_dimensional_points():
    (one,) = read_requests({"foreground": [[3, 7]], "roi": [1, 4, 2, 9]}, (10, 20), {})
    assert one.points == {0: [(3.5, 7.5, 1), (1, 2, 2), (5, 10, 3)]}


def test_one_object_may_have_boxes_on_several_slices():
    (one,) = read_requests({"roi": [[2, 4, 3, 8, 1, 1], [1, 5, 2, 9, 3, 3]]}, SHAPE, {})
    assert one.points == {1: [(2, 3, 2), (5, 9, 3)], 3: [(1, 2, 2), (6, 10, 3)]}
    assert (one.prompted, one.bounds) == ([1, 3], None)
    assert read_requests({"roi": [[2, 4, 3, 8, 0, 2], [1, 5, 2, 9, 3, 3]]}, SHAPE, {})[0].bounds == (0, 3)


def test_bounds_hold_every_prompted_slice_and_arrays_do_as_lists():
    request = {"roi": np.array([2, 4, 3, 8, 1, 2]), "foreground": np.array([[3, 5, 4]])}
    (one,) = read_requests(request, SHAPE, {})
    assert (one.prompted, one.bounds) == ([1, 4], (1, 4))


REFUSED = {
    "digits": ({"roi": "123123"}, "roi of the request must be a list of numbers, got '123123'"),
    "digits point": ({"foreground": ["123"]}, "must be a list of numbers, got '123'"),
    "two boxes": ({"roi": [[0, 1, 0, 1, 2, 2], [3, 4, 3, 4, 1, 3]]}, "roi of the request holds two boxes on slice 2"),
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
        read_requests(requests, SHAPE, {1: "spleen", 2: "liver"})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_drawn_mask_prompts_every_slice_it_is_on(axis):
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 4:9, 1:3] = 7
    label[6:8, 4:9, 1] = 3
    first, second = read_drawn(label, {3: "cyst"}, axis)
    assert [(one.value, one.name) for one in (first, second)] == [(3, "cyst"), (7, "7")]
    for one in (first, second):
        present = (label == one.value).any(tuple(a for a in range(3) if a != axis))
        assert one.prompted == np.nonzero(present)[0].tolist()
        for k, mask in one.masks.items():
            assert np.array_equal(mask, np.take(label == one.value, k, axis).T)
            (x0, y0, _), (x1, y1, _) = one.points[k]
            assert (x0, y0, x1, y1) == box_of(mask)


def test_an_empty_drawn_mask_is_refused():
    with pytest.raises(PromptError, match="The mask that is to prompt holds no object: it is 0 everywhere"):
        read_drawn(np.zeros(SHAPE, np.uint8), {})


def test_a_label_by_itself_is_asked_for_on_every_slice_and_clicks_correct_it_on_theirs():
    labels, tokens = {3: "spleen", 7: "liver"}, [7, 3]  # in the order the adapter learned them
    request = {"label": "spleen", "automatic": True, "background": [[3, 4, 2]]}
    (one,) = read_requests(request, SHAPE, labels, tokens=tokens)
    assert one.prompted == list(range(5))
    assert one.points[0] == [(0.0, 0.0, 6), (0.0, 0.0, 7)]
    assert one.points[2] == [*one.points[0], (3.5, 4.5, 0)]
    assert one.bounds is None
    with pytest.raises(
        PromptError, match="Label 'spleen' cannot be segmented without a prompt: the adapter has no tok"
    ):
        read_requests(request, SHAPE, labels)
    (plain,) = read_requests({**request, "automatic": False, "foreground": [[1, 1, 1]]}, SHAPE, labels, tokens=tokens)
    assert [label for *_, label in plain.points[1]] == [1]  # without it, clicks are clicks
    with pytest.raises(PromptError, match="automatic of the request must be true or false, got 'false'"):
        read_requests({**request, "automatic": "false"}, SHAPE, labels, tokens=tokens)
    with pytest.raises(PromptError, match="the request is automatic, and the network's labels have no names"):
        read_requests(request, SHAPE, {}, tokens=tokens)
