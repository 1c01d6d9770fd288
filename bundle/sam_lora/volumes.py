"""A volume as the network sees it: slices along one axis, each known by its content."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from sam_lora.reading import CaseError


class Volume:
    """Slices of a stored array along an axis; the other two axes, in order, are x and y.

    Args:
        array: ``(I, J, K)`` or ``(I, J, K, 3)``, uint8; an image is a volume of one slice.
        axis: the slice axis, 0, 1 or 2.

    Attributes:
        shape: (I, J, K) of the stored array.
        size: (height, width) of a slice in pixels.

    Raises:
        CaseError: if the array has another shape or type, or nothing in it.
    """

    def __init__(self, array: np.ndarray, axis: int = 2) -> None:
        if axis not in (0, 1, 2):
            raise CaseError(f"axis must be 0, 1 or 2, the axis of the slices, got {axis!r}.")
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
            raise CaseError(f"A volume must have the shape (I, J, K), or (I, J, K, 3) in colour, got {array.shape}.")
        if 0 in array.shape:
            raise CaseError(f"The volume is empty: its shape is {array.shape}.")
        if array.dtype != np.uint8:
            raise CaseError(f"A volume must be uint8 (`cases.to_uint8` makes it so), got {array.dtype}.")
        self.axis = axis
        self.shape = (array.shape[0], array.shape[1], array.shape[2])
        self._slices = np.moveaxis(array, axis, 2)
        self.size = (self._slices.shape[1], self._slices.shape[0])
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return self._slices.shape[2]

    def slice(self, k: int, neighbours: bool = False) -> Tensor:
        """What the network sees of slice ``k``: ``(3, H, W)``, float32 in [0, 255].

        Args:
            k: the slice.
            neighbours: the slices before and after are the first and last channel, see :func:`around`; colours stay.
        """
        slices = np.swapaxes(self._slices, 0, 1)
        if slices.ndim == 4:
            return torch.from_numpy(np.ascontiguousarray(slices[:, :, k])).float().permute(2, 0, 1)
        if neighbours:
            shown = np.stack([slices[:, :, n] for n in around(k, len(self))])
            return torch.from_numpy(shown).float()
        return torch.from_numpy(np.ascontiguousarray(slices[:, :, k])).float().expand(3, -1, -1)

    def digest(self, k: int) -> str:
        """Of the content and size of slice ``k``: equal slices of any volumes have equal ones."""
        if k not in self._digests:
            content = np.ascontiguousarray(self._slices[:, :, k])
            self._digests[k] = hashlib.sha256(str(content.shape).encode() + content.tobytes()).hexdigest()
        return self._digests[k]

    def empty_label(self, largest: int) -> np.ndarray:
        """A label map ``(I, J, K)`` of zeros that can hold values up to ``largest``."""
        # Slices of the last axis lie together, as files have them: filling and writing a few of many slices stays cheap.
        return np.zeros(self.shape, np.uint8 if largest < 256 else np.int32, order="F")

    def slice_of(self, label: np.ndarray, k: int) -> np.ndarray:
        """Slice ``k`` of an array ``(I, J, K)`` as the network sees it, ``(H, W)``: a view to read or write."""
        return np.swapaxes(np.moveaxis(label, self.axis, 2)[:, :, k], 0, 1)


def around(k: int, slices: int) -> tuple[int, int, int]:
    """A slice between those before and after it; at the ends of a volume it stands for what lies beyond."""
    return max(k - 1, 0), k, min(k + 1, slices - 1)
