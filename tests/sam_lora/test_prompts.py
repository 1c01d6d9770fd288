"""Simulated prompts: what each mode gives, and boxes that move."""

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
    refuse_unprompted_labels,
    sample_prompts,
    token,
)

SHAPE = (10, 20, 5)


def masks():
    result = np.zeros((2, 20, 10), bool)
    result[0, 3:9, 2:5] = True
    result[1, 12:15, 6:9] = True
    return result


def test_the_box_of_a_mask_ends_one_past_its_last_pixel():
    assert box_of(masks()[0]) == (2, 3, 5, 9)
    with pytest.raises(PromptError, match="A mask without a single pixel has no box"):
        box_of(np.zeros((3, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_points_inside_the_slice_and_hits_the_object(mode):
    for seed in range(20):
        prompts = sample_prompts(masks(), mode, np.random.RandomState(seed), jitter=0.3, num_points=2, tokens=[1, 0])
        for mask, points, labels in zip(masks(), prompts.points, prompts.point_labels, strict=True):
            for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
                if label == 1:
                    assert mask[math.floor(y), math.floor(x)]
                elif label in (2, 3):
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


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        PromptError, match="prompt_mode must be one of no, token, box, full_box, point, pt_box, mix, got 'boxes'"
    ):
        sample_prompts(masks(), "boxes", np.random.RandomState(0))


def test_no_prompt_with_several_labels_is_refused_naming_them():
    refuse_unprompted_labels("no", {1: "spleen"})
    refuse_unprompted_labels("box", {1: "spleen", 2: "liver"})
    with pytest.raises(PromptError, match="cannot tell 2 labels apart: spleen, liver"):
        refuse_unprompted_labels("no", {1: "spleen", 2: "liver"})


def test_a_label_is_asked_for_by_its_two_tokens():
    assert token(0) == [(0.0, 0.0, 4), (0.0, 0.0, 5)]
    prompts = sample_prompts(masks(), "token", np.random.RandomState(0), tokens=[2, 0])
    assert prompts.point_labels.tolist() == [[8, 9], [4, 5]]
    with pytest.raises(PromptError, match="prompt_mode 'token' needs label tokens: give `--tokens True`"):
        sample_prompts(masks(), "token", np.random.RandomState(0))


def test_an_absent_label_can_be_asked_for_by_token_only():
    empty = np.zeros((1, 20, 10), bool)
    for mode in ("box", "mix", "point"):
        assert sample_prompts(empty, mode, np.random.RandomState(0), tokens=[0]).point_labels.tolist() == [[4, 5]]
        with pytest.raises(PromptError, match="A mask without a single pixel has no box"):
            sample_prompts(empty, mode, np.random.RandomState(0))


def test_mix_takes_the_tokens_where_there_are_some():
    prompts = sample_prompts(masks()[[0, 0]], "mix", np.random.RandomState(0), tokens=[0, None])
    assert prompts.point_labels[0, :2].tolist() == [4, 5]
    assert set(prompts.point_labels[1].tolist()) <= {-2, 1, 2, 3}


def test_a_label_without_tokens_cannot_be_asked_for_by_token():
    with pytest.raises(
        PromptError, match="prompt_mode 'token' cannot ask for object 1 of a slice: its label has no to"
    ):
        sample_prompts(masks(), "token", np.random.RandomState(0), tokens=[0, None])
