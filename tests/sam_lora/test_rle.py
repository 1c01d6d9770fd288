"""Run lengths: there and back, in COCO's order."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from sam_lora.rle import compress_rle, mask_to_rle, rle_to_mask

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())


@given(MASKS)
def test_a_mask_comes_back_from_its_run_lengths(mask):
    rle = mask_to_rle(mask)
    assert sum(rle["counts"]) == mask.size
    assert sum(rle["counts"][1::2]) == mask.sum()
    assert np.array_equal(rle_to_mask(rle), mask)
    assert np.array_equal(rle_to_mask(compress_rle(rle)), mask)


@given(MASKS)
def test_pycocotools_reads_the_same_mask_and_writes_the_same_text(mask):
    compressed = compress_rle(mask_to_rle(mask))
    assert np.array_equal(coco.decode(compressed), mask)
    assert compressed["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_run_lengths_go_down_the_columns_and_begin_outside():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert mask_to_rle(mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert mask_to_rle(~mask) == {"size": [2, 3], "counts": [0, 2, 3, 1]}


def test_compressed_run_lengths_without_pycocotools_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match="need the package pycocotools, which is not installed: `pip install"):
        compress_rle({"size": [1, 1], "counts": [1]})
