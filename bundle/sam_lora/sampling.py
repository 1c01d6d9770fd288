"""In which order slices are trained on: one that a killed run can find again, and that meets labels alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from sam_lora.cases import CaseError
from sam_lora.datasets import SliceDataset


class SliceSampler(DistributedSampler):
    """Shuffled order that depends on seed and epoch only, tells the dataset its epoch, and can start in the middle.

    Args:
        dataset: the slices.
        shuffle: False keeps their order.
        seed: of the shuffling.
        balanced: draw slices, with replacement, so that each label is met equally often, and slices without one as
            often as a label, in place of every slice once.
        slices: in an epoch, of all processes together; None: as many as there are. More than there are need ``balanced``.

    Raises:
        CaseError: if there is no slice, or more are asked for than there are.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        shuffle: bool = True,
        seed: int = 0,
        balanced: bool = False,
        slices: int | None = None,
    ) -> None:
        if not len(dataset):
            raise CaseError(
                "There is no training case: `--dataset_dir DIR`, with or without `--datalist FILE`, names them."
            )
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        replicas, rank = (None, None) if distributed else (1, 0)
        super().__init__(dataset, replicas, rank, shuffle=shuffle, seed=seed)
        self.start = 0  # samples of the next epoch that were seen before a kill
        self._weights = slice_weights(dataset.values) if balanced else None
        if slices is not None and not balanced and slices > len(dataset):
            raise CaseError(
                f"slices_per_epoch is {slices} and there are {len(dataset)} slices: `--balanced True` repeats."
            )
        if slices is not None:
            self.num_samples = -(-slices // self.num_replicas)
            self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        """Positions in the dataset, plus its length times the epoch."""
        length = len(self.dataset)  # type: ignore[arg-type]
        start, self.start = self.start, 0
        yield from (self.epoch * length + index for index in self._order()[start:])

    def _order(self) -> list[int]:
        """This process's share of the epoch; where there are fewer slices than shares, the first ones come again."""
        length, rng = len(self.dataset), np.random.RandomState([self.seed, self.epoch])  # type: ignore[arg-type]
        if self._weights is not None:
            order = rng.choice(length, self.total_size, p=self._weights)
        else:
            order = rng.permutation(length) if self.shuffle else np.arange(length)
        return np.resize(order, self.total_size)[self.rank :: self.num_replicas].tolist()


def slice_weights(values: Sequence[Sequence[int]]) -> np.ndarray:
    """How often each slice is drawn so that every label is met alike, and no label as often as one: sums to 1.

    Args:
        values: label values in each slice.
    """
    kinds = [list(some) or [0] for some in values]
    counts = Counter(kind for some in kinds for kind in some)
    weights = np.array([sum(1 / counts[kind] for kind in some) for some in kinds])
    return weights / weights.sum()
