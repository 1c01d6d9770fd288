"""Cases: one image and its label map, on the grid they are stored on, ready for the network."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.files import write_aside
from sam_lora.grids import difference, same_place, turn_onto
from sam_lora.reading import PICTURES, CaseError, read_array


@dataclass(frozen=True)
class Case:
    """One image and its label map, slices first.

    Args:
        name: the entry's ``name``, else the file's name without ending.
        image: ``(K, H, W)`` or ``(K, H, W, 3)``, uint8; slices along ``axis``; columns, rows along the others, in order.
        label: ``(K, H, W)``, integers, 0 background; None where there is none.
        spacing: size of a voxel in mm, (i, j, k); None where the file does not say.
        affine: voxel (i, j, k) -> RAS mm, 4 x 4.
        content: digest of image and label.
        axis: of the stored array, 0, 1 or 2, that the slices lie along.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float, float] | None
    affine: np.ndarray
    content: str
    axis: int = 2

    @property
    def slice_spacing(self) -> list[float] | None:
        """Size of a voxel in mm along the axes of ``label``: from slice to slice, down, right; None where nobody says."""
        return None if self.spacing is None else [self.spacing[a] for a in _slice_axes(self.axis)]


def to_uint8(volume: np.ndarray, intensity: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Bring raw intensities to [0, 255], once per volume, the same way for training and serving.

    Args:
        volume: any shape.
        intensity: ``{"window": [level, width]}`` (CT, in HU), or ``{"percentiles": [low, high]}`` (MR and others).
            Where no voxel is negative, zero is the background: it stays zero, and percentiles are of the rest.

    Returns:
        uint8, the same shape.

    Raises:
        CaseError: if there is a NaN or infinite value, or the intensity is not one of the two.
    """
    if not np.isfinite(volume).all():
        raise CaseError(f"The image holds {int((~np.isfinite(volume)).sum())} values that are NaN or infinite.")
    low, high = intensity_range(volume, intensity)
    keeps_zero = "percentiles" in intensity and volume.min() >= 0
    result = np.empty(volume.shape, np.uint8)
    for k in range(volume.shape[-1]):  # a slice at a time: a float copy of a large CT takes gigabytes
        part = volume[..., k].astype(np.float32)
        scaled = np.clip((part - low) / max(high - low, 1e-6), 0, 1) * 255
        if keeps_zero:
            scaled[part == 0] = 0
        result[..., k] = scaled.round()
    return result


def intensity_range(volume: np.ndarray, intensity: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """The raw intensities that become 0 and 255, see :func:`to_uint8`; CaseError if the intensity is not one."""
    match dict(intensity):
        case {"window": [level, width], **rest} if not rest and width > 0:
            return level - width / 2, level + width / 2
        case {"percentiles": [low, high], **rest} if not rest and 0 <= low < high <= 100:
            present = volume[volume != 0] if volume.min() >= 0 else volume
            return tuple(np.percentile(present, [low, high])) if present.size else (0.0, 1.0)
    raise CaseError(
        'intensity must be {"window": [level, width]} or {"percentiles": [low, high]} with 0 <= low < high <= 100, '
        f"got {intensity!r}."
    )


def read_case(entry: Mapping[str, Any], intensity: Mapping[str, Sequence[float]] = DEFAULT_INTENSITY) -> Case:
    """Read one entry of a datalist.

    Args:
        entry: ``{"image": path, "label": path, "axis": 2}``; npz: one file for both; label and axis may be missing.
        intensity: see :func:`to_uint8`.

    Raises:
        CaseError: naming the file, if something is missing, unreadable, misshapen, misplaced, not finite, or no axis.
    """
    path, axis = Path(str(entry["image"])), entry.get("axis", 2)
    if type(axis) is not int or not 0 <= axis <= 2:
        raise CaseError(f"{path}: axis must be 0, 1 or 2, the axis of the slices, got {axis!r}.")
    image, meta = read_image(path, intensity)
    label = None
    if entry.get("label"):
        label = read_label(Path(str(entry["label"])), image.shape[:3], path, meta)
    affine = meta["affine"]
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)) if meta["has_spacing"] else None
    image = _slices_first(image, axis)
    label = None if label is None else _slices_first(label, axis)
    digest = hashlib.sha256(image.data)
    if label is not None:
        digest.update(label.data)
    return Case(str(entry.get("name") or stem(path)), image, label, spacing, affine, digest.hexdigest(), axis)  # type: ignore[arg-type]


def read_image(path: Path, intensity: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image as the network wants it.

    npz cases and pictures that are uint8 are in [0, 255] by contract and stay as they are.

    Args:
        path: a file, or a folder with one DICOM series.
        intensity: see :func:`to_uint8`.

    Returns:
        ``(I, J, K)`` or ``(I, J, K, 3)``, uint8, and MONAI's metadata.

    Raises:
        CaseError: naming the file.
    """
    array, meta = read_array(path, "imgs")
    if is_ready(array, path):
        return array, meta
    try:
        return to_uint8(array, intensity), meta
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from error


def is_ready(array: np.ndarray, path: Path) -> bool:
    """Whether an image is in [0, 255] by contract: npz cases and pictures of 8 bits; other files hold raw intensities."""
    return array.dtype == np.uint8 and path.suffix.lower() in (".npz", *PICTURES)


def read_label(
    path: Path, shape: Sequence[int], image: Path, place: Mapping[str, Any] | None, turn: bool = False
) -> np.ndarray:
    """Read a label map ``(I, J, K)`` and make sure that it lies on the grid of its image.

    Args:
        path: the label map.
        shape: of the image, (I, J, K).
        image: named in errors.
        place: the image's metadata, see :func:`sam_lora.reading.read_array`; None if the caller compares the places.
        turn: flip and permute the label map's axes where that brings it onto the image's grid exactly.

    Raises:
        CaseError: if its shape differs, it lies elsewhere, or its values are not whole numbers from 0. Files that do
            not say where they lie (pictures, npz without ``affine`` and ``spacing``) need to agree in shape only.
    """
    array, own = read_array(path, "gts")
    if array.ndim == 4:
        raise CaseError(f"{path} must hold one label per voxel, it has {array.shape[-1]} channels.")
    both_lie = place is not None and place["has_spacing"] and own["has_spacing"]
    turned = (
        turn_onto(array, own["affine"], shape, place["affine"]) if place is not None and both_lie and turn else None
    )
    if turned is not None:
        array, both_lie = turned, False
    if array.shape != tuple(shape):
        raise CaseError(f"{image} has shape {tuple(shape)}, its label {path} has {array.shape}; they must be equal.")
    if place is not None and both_lie and not same_place(shape, place["affine"], own["affine"]):
        raise CaseError(
            f"{path} and {image} have {' x '.join(map(str, shape))} voxels each, and their affines differ: "
            f"{difference(place['affine'], own['affine'])}. Bring the mask onto the image's grid."
        )
    if not np.isfinite(array).all() or (array != np.round(array)).any() or array.min() < 0:
        raise CaseError(f"{path} must hold whole numbers from 0, each above 0 an object.")
    return array.astype(np.uint8 if array.max() < 256 else np.int32)


def _slice_axes(axis: int) -> tuple[int, int, int]:
    """The stored axes that become slice, row and column: of the two that are left, the first is x."""
    x, y = (a for a in range(3) if a != axis)
    return axis, y, x


def _slices_first(array: np.ndarray, axis: int) -> np.ndarray:
    """Voxel order (i, j, k[, c]) -> (slice, row, column[, c]), contiguous: what is stored slice by slice is read so."""
    return np.ascontiguousarray(np.moveaxis(array, _slice_axes(axis), (0, 1, 2)))


def stem(path: Path) -> str:
    """File name without ending, ``.nii.gz`` being one ending."""
    if path.is_dir():
        return path.name
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return name.rsplit(".", 1)[0]


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray, image: Path, axis: int = 2) -> Path:
    """Write a label map on the grid of its image: PNG for a picture, else NIfTI.

    Args:
        path: where to, without ending.
        mask: ``(K, H, W)``, integers.
        affine: of the image, voxel -> RAS mm.
        image: file of the image; its ending decides.
        axis: of the image, that K lies along.

    Returns:
        The path with its ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.suffix.lower() in PICTURES and len(mask) == 1:
        path = path.with_name(path.name + ".png")
        with write_aside(path) as temporary:
            Image.fromarray(mask[0].astype(np.uint8 if mask.max() < 256 else np.uint16)).save(temporary, "PNG")
        return path
    return write_nifti(path.with_name(path.name + ".nii.gz"), np.moveaxis(mask, (0, 1, 2), _slice_axes(axis)), affine)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, comment: str = "") -> Path:
    """Write an array as NIfTI, equal arrays to equal bytes.

    Args:
        path: ends in .nii.gz.
        array: ``(I, J, K)``, numbers.
        affine: voxel -> RAS mm.
        comment: goes into the header's extension for comments.

    Returns:
        ``path``.
    """
    if array.dtype in (np.int64, np.uint64):  # NIfTI's readers do not take these
        array = array.astype(np.float64)
    nifti = nibabel.Nifti1Image(array, affine)
    nifti.header.set_xyzt_units("mm")
    if comment:
        nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", comment.encode()))
    with (
        write_aside(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        nifti.to_stream(packed)
    return path
