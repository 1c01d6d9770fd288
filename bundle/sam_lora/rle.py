"""Run lengths of binary masks, as COCO defines them: small in memory, and what annotation tools exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a binary mask ``(H, W)`` with at least one pixel.

    Returns:
        ``size`` [H, W], and ``counts``: pixels outside, inside, outside, ... going down one column after the other.
        Where the first pixel is inside, the first count is 0.
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def rle_to_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """The binary mask ``(H, W)`` of run lengths from :func:`mask_to_rle` or :func:`compress_rle`."""
    if isinstance(rle["counts"], str):
        return pycocotools_mask().decode(rle).astype(bool)
    inside = np.arange(len(rle["counts"])) % 2 == 1
    return np.repeat(inside, rle["counts"]).reshape(rle["size"], order="F")


def compress_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """COCO's compressed form of :func:`mask_to_rle`: ``counts`` becomes text, so that it fits JSON."""
    compressed = pycocotools_mask().frPyObjects(dict(rle), *rle["size"])
    return {"size": list(rle["size"]), "counts": compressed["counts"].decode("ascii")}


def pycocotools_mask() -> Any:
    """The module that compresses run lengths.

    Raises:
        ValueError: if it is not installed; nothing else needs it.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError(
            "Compressed run lengths (coco_rle) need the package pycocotools, which is not installed: `pip install "
            "pycocotools`, or use 'uncompressed_rle'."
        ) from error
    return mask
