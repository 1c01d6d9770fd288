"""Slices of a stored array along any axis, and what is refused."""

import numpy as np
import pytest
import torch

from sam_lora.reading import CaseError
from sam_lora.volumes import Volume

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_the_two_other_axes_in_order_as_x_and_y(axis):
    volume = Volume(ARRAY, axis)
    assert len(volume) == ARRAY.shape[axis]
    for k in range(len(volume)):
        expected = np.take(ARRAY, k, axis).T
        assert volume.size == expected.shape
        assert torch.equal(volume.slice(k), torch.from_numpy(expected.copy()).float().expand(3, -1, -1))
        label = volume.empty_label(1)
        volume.slice_of(label, k)[...] = 1
        assert label.sum() == np.take(label, k, axis).sum() == expected.size


def test_colour_keeps_its_channels():
    array = np.random.RandomState(0).randint(0, 255, (2, 3, 4, 3), np.uint8)
    assert torch.equal(Volume(array).slice(1), torch.from_numpy(array[:, :, 1].transpose(2, 1, 0).copy()).float())


def test_equal_slices_have_equal_digests_however_they_lie_in_memory():
    one, other = Volume(ARRAY), Volume(np.asfortranarray(ARRAY))
    assert [one.digest(k) for k in range(4)] == [other.digest(k) for k in range(4)]
    assert len({one.digest(k) for k in range(4)}) == 4
    assert Volume(ARRAY[:, :, :1].reshape(3, 2, 1)).digest(0) != one.digest(0)  # the same bytes in another shape


def test_a_label_map_is_as_wide_as_its_values():
    assert Volume(ARRAY).empty_label(255).dtype == np.uint8
    assert Volume(ARRAY).empty_label(256).dtype == np.int32


@pytest.mark.parametrize(
    ("array", "axis", "sentence"),
    [
        (np.zeros((2, 3), np.uint8), 2, r"must have the shape \(I, J, K\), or .* in colour, got \(2, 3\)"),
        (np.zeros((2, 3, 4, 5), np.uint8), 2, r"got \(2, 3, 4, 5\)"),
        (np.zeros((2, 0, 4), np.uint8), 2, r"The volume is empty: its shape is \(2, 0, 4\)"),
        (np.zeros((2, 3, 4)), 2, "A volume must be uint8 .* got float64"),
        (np.zeros((2, 3, 4), np.uint8), 3, "axis must be 0, 1 or 2, the axis of the slices, got 3"),
    ],
)
def test_what_is_no_volume_is_refused(array, axis, sentence):
    with pytest.raises(CaseError, match=sentence):
        Volume(array, axis)


def test_neighbours_are_the_outer_channels_along_any_axis():
    for axis in range(3):
        volume = Volume(ARRAY, axis)
        last = len(volume) - 1
        for k in range(len(volume)):
            shown = volume.slice(k, neighbours=True)
            for channel, n in enumerate((max(k - 1, 0), k, min(k + 1, last))):
                assert torch.equal(shown[channel], volume.slice(n)[0])
