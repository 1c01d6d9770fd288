"""Whether two arrays lie on one grid of voxels, what differs, and how an array is turned onto another grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import nibabel
import numpy as np

SIDES = {"L": "left-right", "R": "left-right", "A": "back-front", "P": "back-front", "S": "foot-head", "I": "foot-head"}


def same_place(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the corners of two grids of one shape lie within a tenth of a voxel: headers are rounded in many ways.

    Args:
        shape: (I, J, K).
        one: voxel -> RAS mm, 4 x 4.
        other: likewise.
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    apart = np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max()
    return bool(apart <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min())


def turn_onto(array: np.ndarray, affine: np.ndarray, shape: Sequence[int], onto: np.ndarray) -> np.ndarray | None:
    """Flip and permute an array's axes, values untouched, so that it lies on another grid.

    Args:
        array: (I, J, K).
        affine: of the array, voxel -> RAS mm.
        shape: of the grid it should lie on.
        onto: that grid's affine.

    Returns:
        The array on that grid; None where no flip and no permutation makes the two one grid.
    """
    if array.shape == tuple(shape) and same_place(shape, affine, onto):
        return array
    axes = nibabel.io_orientation(np.linalg.inv(onto) @ affine)  # the array's axes as the grid's
    turned = nibabel.apply_orientation(array, axes)
    place = affine @ nibabel.orientations.inv_ornt_aff(axes, array.shape)
    if turned.shape != tuple(shape) or not same_place(shape, onto, place):
        return None
    return np.ascontiguousarray(turned)


def difference(image: np.ndarray, mask: np.ndarray) -> str:
    """What differs between the affines of an image and its mask, in words: axes, flips, sizes, directions or origin."""
    axes, others = nibabel.aff2axcodes(image), nibabel.aff2axcodes(mask)
    sizes, other_sizes = (np.linalg.norm(affine[:3, :3], axis=0) for affine in (image, mask))
    if [SIDES[a] for a in axes] != [SIDES[a] for a in others]:
        return f"the image's axes run {''.join(axes)}, the mask's {''.join(others)}"
    if axes != others:
        flips = [SIDES[a] for a, b in zip(axes, others, strict=True) if a != b]
        return f"the mask is flipped {' and '.join(flips)}"
    if np.abs(sizes - other_sizes).max() > 1e-3 * sizes.min():
        return f"voxels of the image measure {_by(sizes)} mm, those of the mask {_by(other_sizes)} mm"
    if np.abs(image[:3, :3] / sizes - mask[:3, :3] / other_sizes).max() > 1e-3:
        return "the mask's axes are turned against the image's"
    return f"the mask begins {np.linalg.norm(image[:3, 3] - mask[:3, 3]):.3g} mm away from the image"


def _by(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
