"""What an embedding is of: a slice, and the slices beside it where the network sees them."""

import numpy as np
import pytest
import torch

from sam_lora.embedding import Embedder
from sam_lora.volumes import Volume


def volume(changed=None):
    array = np.random.RandomState(0).randint(0, 255, (24, 20, 9), np.uint8)
    if changed is not None:
        array[:, :, changed] = 255 - array[:, :, changed]
    return Volume(array)


@pytest.mark.parametrize("neighbours", [False, True])
def test_it_is_what_the_network_makes_of_the_slices_it_sees_and_of_no_others(toy_sam, neighbours):
    toy_sam.neighbours = neighbours
    embedder = Embedder(toy_sam)
    found = embedder.embed(volume(), list(range(9)))
    for k, embedding in enumerate(found):
        with torch.no_grad():
            assert torch.equal(embedding, toy_sam.encode(volume().slice(k, neighbours)[None]))
    misses = embedder.cache.statistics.misses
    reach = int(neighbours)
    for changed in range(9):
        (other,) = embedder.embed(volume(changed), [4])
        assert torch.equal(other, found[4]) == (abs(changed - 4) > reach), changed
    assert embedder.cache.statistics.misses - misses == 2 * reach + 1
