"""The order of slices: from seed and epoch alone, labels met alike, as many as asked for."""

import pytest

from sam_lora.cases import CaseError
from sam_lora.datasets import SliceDataset
from sam_lora.sampling import SliceSampler, slice_weights
from tests.sam_lora.test_datasets import dataset


def test_the_order_follows_from_the_epoch_and_can_start_in_the_middle(dataset_dir):
    slices = dataset(dataset_dir)
    sampler = SliceSampler(slices, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    assert sorted(whole) == [2 * 8 + i for i in range(8)]
    assert whole != sorted(whole)
    sampler.start = 5
    assert list(sampler) == whole[5:]
    assert list(sampler) == whole  # only once
    sampler.set_epoch(3)
    assert [i % 8 for i in sampler] != [i % 8 for i in whole]


def test_balanced_sampling_meets_every_label_alike():
    values = [[1], [1], [1], [1], [2], []]
    weights = slice_weights(values)
    assert weights.sum() == pytest.approx(1)
    for kind in ([1], [2], []):
        assert sum(w for w, v in zip(weights, values, strict=True) if v == kind) == pytest.approx(1 / 3)


def test_an_epoch_has_as_many_slices_as_asked_for(dataset_dir):
    slices = dataset(dataset_dir)
    sampler = SliceSampler(slices, balanced=True, slices=20)
    sampler.set_epoch(1)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 20
    assert all(8 <= index < 16 for index in drawn)
    assert list(sampler) == drawn
    assert len(set(SliceSampler(slices, slices=5))) == 5
    with pytest.raises(CaseError, match="slices_per_epoch is 20 and there are 8 slices: `--balanced True` repeats"):
        SliceSampler(slices, slices=20)


def test_no_case_is_a_sentence():
    with pytest.raises(CaseError, match="There is no training case: `--dataset_dir DIR`"):
        SliceSampler(SliceDataset([]))
