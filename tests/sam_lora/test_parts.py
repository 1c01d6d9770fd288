"""The parts of an object: all of it, none of it twice."""

import numpy as np

from sam_lora.parts import parts_of


def test_the_parts_of_a_mask_add_up_to_it_touch_at_corners_and_the_largest_stays_however_small():
    mask = np.zeros((20, 10), bool)
    mask[1:3, 1:3], mask[3, 3], mask[8:10, 0:3], mask[19, 9] = True, True, True, True
    corner, bar, speck = parts_of(mask, 1)
    assert (corner | bar | speck == mask).all()
    assert [part.sum() for part in (corner, bar, speck)] == [5, 6, 1]
    assert [part.sum() for part in parts_of(mask, 6)] == [6]
    assert np.array_equal(parts_of(mask, 100), [bar])
    assert parts_of(mask.astype(np.float32), 1)[0].dtype == np.float32
    assert np.array_equal(parts_of(corner, 1), [corner])
