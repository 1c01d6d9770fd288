"""Masks as files that clients read: NRRD for 3D Slicer and OHIF, NIfTI for whoever asks for it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from scipy import ndimage

from sam_lora.cases import write_nifti

ENDINGS = (".nrrd", ".nii.gz", ".nii")
TYPES = {"uint8": "unsigned char", "uint16": "unsigned short", "int16": "short"}
_GZIP = 31  # zlib's name for "15 bits of window, in a gzip container"
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_answer(mask: np.ndarray, affine: np.ndarray, ending: str, dtype: str, compress: bool) -> Path:
    """Write a mask into a temporary file, which belongs to the caller.

    Args:
        mask: ``(I, J, K)``, voxels of the stored image; fastest where it is laid out as files are, i running fastest.
        affine: voxel -> RAS mm, 4 x 4.
        ending: of the file, one of :data:`ENDINGS`.
        dtype: name of the stored type, one of :data:`TYPES`.
        compress: gzip the voxels. A mask is nearly all zeros: 40 MB become 60 kB.

    Raises:
        ValueError: if ending or dtype is none of these, or the type cannot hold the mask's values.
    """
    if ending not in ENDINGS:
        raise ValueError(f"result_extension must be one of {', '.join(ENDINGS)}, got {ending!r}.")
    if dtype not in TYPES:
        raise ValueError(f"result_dtype must be one of {', '.join(TYPES)}, got {dtype!r}.")
    if mask.dtype != dtype:
        if mask.max(initial=0) > np.iinfo(dtype).max:
            raise ValueError(f"result_dtype {dtype} cannot hold the label {mask.max()}.")
        mask = mask.astype(dtype, order="F")
    with tempfile.NamedTemporaryFile(suffix=ending, delete=False) as file:
        path = Path(file.name)
        if ending == ".nrrd":
            file.write(_nrrd(mask, affine, compress))
    return path if ending == ".nrrd" else write_nifti(path, mask, affine)


def _nrrd(mask: np.ndarray, affine: np.ndarray, compress: bool) -> bytes:
    """The bytes of an NRRD file (teem.sourceforge.net/nrrd/format.html), in the space that ITK and Slicer write."""
    lps = _RAS_TO_LPS @ affine
    voxels = np.ascontiguousarray(mask.T)
    lines = [
        "NRRD0004",
        f"type: {TYPES[mask.dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(side) for side in mask.shape)}",
        f"space directions: {' '.join(_vector(lps[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(lps[:3, 3])}",
    ]
    header = "\n".join(lines).encode() + b"\n\n"
    if not compress:
        return header + voxels.tobytes()
    return header + bytes(isal_zlib.compress(voxels, 1, _GZIP))


def _vector(numbers: Any) -> str:
    return f"({','.join(repr(float(n)) for n in numbers)})"


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a binary mask ``(I, J, K)``; voxels that share a face are connected."""
    box = ndimage.find_objects((mask > 0).view(np.uint8))
    if not box:
        return mask
    parts, count = ndimage.label(mask[box[0]])
    if count < 2:
        return mask
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    result = np.zeros_like(mask)
    result[box[0]] = np.where(parts == largest, mask[box[0]], 0)
    return result
