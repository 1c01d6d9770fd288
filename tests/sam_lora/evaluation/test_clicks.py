"""Clicks fall into the middle of the object, then into the middle of what is most wrong."""

import numpy as np

from sam_lora.evaluation.clicks import deepest, first_click, largest_part, next_click


def block(rows, columns, shape=(20, 24)):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_the_first_click_is_deepest_inside_the_largest_part():
    assert first_click(block((3, 8), (4, 9))) == (6.5, 5.5, 1)  # x, y: the voxel's centre
    two = block((0, 2), (0, 2)) | block((10, 17), (10, 17))
    assert first_click(two) == (13.5, 13.5, 1)
    one = block((19, 20), (23, 24))
    assert first_click(one) == (23.5, 19.5, 1)


def test_beyond_the_edge_is_outside():
    assert deepest(block((0, 5), (0, 5))) == (2, 2)


def test_the_next_click_corrects_the_largest_error():
    truth = block((2, 10), (2, 10))
    assert next_click(truth, truth) is None
    assert next_click(truth & False, truth)[2] == 1
    leaked = truth | block((12, 19), (12, 23))
    assert next_click(leaked, truth) == (15.5, 15.5, 0)
    missed_and_leaked = block((2, 10), (2, 5)) | block((18, 20), (18, 20))
    x, y, label = next_click(missed_and_leaked, truth)
    assert (label, truth[int(y), int(x)], missed_and_leaked[int(y), int(x)]) == (1, True, False)


def test_a_click_always_falls_on_an_error_of_its_kind():
    rng = np.random.RandomState(0)
    for _ in range(50):
        predicted, truth = (rng.rand(2, 15, 15) > rng.rand()) & block((0, 15), (0, 15), (15, 15))
        click = next_click(predicted, truth)
        if click is None:
            assert (predicted == truth).all()
            continue
        x, y, label = int(click[0]), int(click[1]), click[2]
        assert truth[y, x] == (label == 1)
        assert predicted[y, x] == (label == 0)


def test_the_largest_part_is_one_part():
    assert not largest_part(np.zeros((3, 3), bool)).any()
    two = block((0, 2), (0, 2)) | block((4, 6), (4, 8))
    assert (largest_part(two) == block((4, 6), (4, 8))).all()
