"""Cases: one image and its label map, from any format, on the grid they are stored on.

The npz contract: ``imgs`` (N, H, W) or (N, H, W, 3), ``gts`` (N, H, W), optional ``spacing`` (mm, i j k), ``affine``
(4 x 4), ``labels`` (JSON, value -> name) and ``source_digest``. ``imgs[k]`` is the slice shown to the network, rows j
and columns i, as SimpleITK-made files have it.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader, ITKReader, NibabelReader, PILReader
from PIL import Image

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.files import write_aside

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class CaseError(ValueError):
    """A case that cannot be used; the sentence names the file and the rule."""


@dataclass(frozen=True)
class Case:
    """One image and its label map, slices first.

    Args:
        name: the entry's ``name``, else the file's name without ending.
        image: ``(K, H, W)`` or ``(K, H, W, 3)``, uint8; rows are j, columns i.
        label: ``(K, H, W)``, integers, 0 background; None where there is none.
        spacing: size of a voxel in mm, (i, j, k); None where the file does not say.
        affine: voxel (i, j, k) -> RAS mm, 4 x 4.
        content: digest of image and label.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float, float] | None
    affine: np.ndarray
    content: str


class NpzReader(ImageReader):
    """Reads the npz contract the way MONAI's readers read other formats: in voxel order (i, j, k[, channel]).

    Args:
        key: "imgs" or "gts".
    """

    def __init__(self, key: str = "imgs") -> None:
        self.key = key

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the file is an npz."""
        return isinstance(filename, str | Path) and Path(filename).suffix == ".npz"

    def read(self, data: Sequence[PathLike] | PathLike, **_: Any) -> dict[str, Any]:
        """Open a file; CaseError if it is no readable npz or lacks the key."""
        path = Path(str(data if isinstance(data, str | Path) else data[0]))
        content = read_npz(path, (self.key, "spacing", "affine"))
        if self.key not in content:
            raise CaseError(f"{path} must hold `imgs` and `gts`; it has no `{self.key}`.")
        return {"path": path, **content}

    def get_data(self, img: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """The array in voxel order, and its geometry."""
        array = img[self.key]
        if array.ndim not in (3, 4) or (array.ndim == 4 and (array.shape[-1] != 3 or self.key != "imgs")):
            raise CaseError(
                f"`{self.key}` of {img['path']} must have shape (N, H, W){' or (N, H, W, 3)' if self.key == 'imgs' else ''}"
                f", got {array.shape}."
            )
        if 0 in array.shape:
            raise CaseError(f"`{self.key}` of {img['path']} is empty: its shape is {array.shape}.")
        affine = _affine(img)
        channel = -1 if array.ndim == 4 else float("nan")
        meta = {"affine": affine, "original_channel_dim": channel, "has_spacing": "spacing" in img or "affine" in img}
        return np.moveaxis(array, (0, 1, 2), (2, 1, 0)), meta


def _affine(content: Mapping[str, Any]) -> np.ndarray:
    """Voxel -> RAS mm of an npz case, from its ``affine`` or ``spacing``; CaseError if they cannot be that."""
    spacing = np.asarray(content.get("spacing", (1, 1, 1)), float)
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise CaseError(f"`spacing` of {content['path']} must be three sizes in mm above 0, got {spacing.tolist()}.")
    affine = np.asarray(content.get("affine", np.diag([*spacing, 1])), float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine):
        raise CaseError(f"`affine` of {content['path']} must be an invertible 4 x 4 matrix, got {affine.tolist()}.")
    return affine


def read_array(path: Path, key: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image or a label map in voxel order, as a volume.

    Args:
        path: a file, or a folder with one DICOM series.
        key: "imgs" or "gts", for npz.

    Returns:
        ``(I, J, K)`` or ``(I, J, K, 3)`` and MONAI's metadata.

    Raises:
        CaseError: if it cannot be read, or has another number of dimensions.
    """
    if not path.exists():
        raise CaseError(f"There is no {path}.")
    # Not LoadImage: after an error it goes on to the next reader, which may make something of a broken file.
    reader = _reader(path, key)
    try:
        array, meta = reader.get_data(reader.read(str(path)))
    except CaseError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CaseError(f"{path} cannot be read as an image: {reason}") from error
    if array.dtype.kind not in "uifb":
        raise CaseError(f"{path} must hold one number per voxel, its type is {array.dtype}.")
    may_be_colour = meta.get("original_channel_dim") == -1 and not isinstance(reader, NibabelReader)
    return _as_volume(array, may_be_colour, path), {**meta, "affine": _four_by_four(meta.get("affine"))}


def _as_volume(array: np.ndarray, may_be_colour: bool, path: Path) -> np.ndarray:
    in_colour = may_be_colour and array.shape[-1] in (3, 4)
    if in_colour:
        array = array[..., :3]
    elif array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2 + in_colour:
        array = array[:, :, None]
    if array.ndim != 3 + in_colour:
        raise CaseError(f"{path} must be one image or one volume, it has shape {array.shape}.")
    return array


def _four_by_four(affine: Any) -> np.ndarray:
    """The affine of a volume; that of a picture (none) or of a 2D file (3 x 3) is filled up."""
    full, given = np.eye(4), np.eye(4) if affine is None else np.asarray(affine, float)
    if given.shape == (3, 3):
        full[:2, :2], full[:2, 3] = given[:2, :2], given[:2, 2]
        return full
    return given


def _reader(path: Path, key: str) -> ImageReader:
    """The reader of a file by its ending; ITK for everything else, a folder with a DICOM series included."""
    if path.suffix == ".npz":
        return NpzReader(key)
    if path.suffix.lower() in PICTURES:
        return PILReader(converter=_picture if key == "imgs" else _mask_picture)
    return NibabelReader() if path.name.lower().endswith((".nii", ".nii.gz")) else ITKReader()


def _picture(image: Image.Image) -> Image.Image:
    """A picture as grey or RGB, whatever its mode; palettes and inks become colours, transparency is dropped."""
    _refuse_pages(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "PA"):
        return image.convert("LA").getchannel("L")
    return image if image.mode in ("L", "RGB") or image.mode.startswith(("I", "F")) else image.convert("RGB")


def _mask_picture(image: Image.Image) -> Image.Image:
    """A mask as its stored values: the indices of a palette are the labels."""
    _refuse_pages(image)
    return image.convert("L").point(lambda v: min(v, 1)) if image.mode == "1" else image


def _refuse_pages(image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise CaseError(
            f"{getattr(image, 'filename', 'The picture')} has {image.n_frames} pages; give one page per file."
        )


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
    low, high = _range(volume, intensity)
    keeps_zero = "percentiles" in intensity and volume.min() >= 0
    result = np.empty(volume.shape, np.uint8)
    for k in range(volume.shape[-1]):  # a slice at a time: a float copy of a large CT takes gigabytes
        part = volume[..., k].astype(np.float32)
        scaled = np.clip((part - low) / max(high - low, 1e-6), 0, 1) * 255
        if keeps_zero:
            scaled[part == 0] = 0
        result[..., k] = scaled.round()
    return result


def _range(volume: np.ndarray, intensity: Mapping[str, Sequence[float]]) -> tuple[float, float]:
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
        entry: ``{"image": path, "label": path}``; for npz both name the same file; no label is needed for inference.
        intensity: see :func:`to_uint8`.

    Raises:
        CaseError: naming the file, if something is missing, unreadable, of another shape, or not finite.
    """
    path = Path(str(entry["image"]))
    image, meta = read_image(path, intensity)
    label = None
    if entry.get("label"):
        label = read_label(Path(str(entry["label"])), image.shape[:3], path)
    affine = meta["affine"]
    has_spacing = meta.get("has_spacing", path.suffix.lower() not in PICTURES)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)) if has_spacing else None
    image = _slices_first(image)
    label = None if label is None else _slices_first(label)
    digest = hashlib.sha256(image.data)
    if label is not None:
        digest.update(label.data)
    return Case(str(entry.get("name") or stem(path)), image, label, spacing, affine, digest.hexdigest())  # type: ignore[arg-type]


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
    if array.dtype == np.uint8 and path.suffix.lower() in (".npz", *PICTURES):
        return array, meta
    try:
        return to_uint8(array, intensity), meta
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from error


def read_label(path: Path, shape: Sequence[int], image: Path) -> np.ndarray:
    """Read a label map ``(I, J, K)`` and make sure that it fits its image.

    Raises:
        CaseError: if its shape differs, or its values are not whole numbers from 0.
    """
    array, _ = read_array(path, "gts")
    if array.ndim == 4:
        raise CaseError(f"{path} must hold one label per voxel, it has {array.shape[-1]} channels.")
    if array.shape != tuple(shape):
        raise CaseError(f"{image} has shape {tuple(shape)}, its label {path} has {array.shape}; they must be equal.")
    if not np.isfinite(array).all() or (array != np.round(array)).any() or array.min() < 0:
        raise CaseError(f"{path} must hold whole numbers from 0, each above 0 an object.")
    return array.astype(np.uint8 if array.max() < 256 else np.int32)


def _slices_first(array: np.ndarray) -> np.ndarray:
    """Voxel order (i, j, k[, c]) -> (k, j, i[, c]), contiguous: what is stored slice by slice is read so."""
    return np.ascontiguousarray(np.moveaxis(array, (0, 1, 2), (2, 1, 0)))


def stem(path: Path) -> str:
    """File name without ending, ``.nii.gz`` being one ending."""
    return path.name if path.is_dir() else path.name.removesuffix(".gz").rsplit(".", 1)[0]


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray, image: Path) -> Path:
    """Write a label map on the grid of its image: PNG for a picture, else NIfTI.

    Args:
        path: where to, without ending.
        mask: ``(K, H, W)``, integers.
        affine: of the image, voxel -> RAS mm.
        image: file of the image; its ending decides.

    Returns:
        The path with its ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.suffix.lower() in PICTURES and len(mask) == 1:
        path = path.with_name(path.name + ".png")
        with write_aside(path) as temporary:
            Image.fromarray(mask[0].astype(np.uint8 if mask.max() < 256 else np.uint16)).save(temporary, "PNG")
        return path
    path = path.with_name(path.name + ".nii.gz")
    nifti = nibabel.Nifti1Image(np.moveaxis(mask, (0, 1, 2), (2, 1, 0)), affine)
    nifti.header.set_xyzt_units("mm")
    with write_aside(path) as temporary:
        temporary.write_bytes(gzip.compress(nifti.to_bytes(), mtime=0))
    return path


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of ``keys`` that an npz file has; CaseError if it is no readable npz."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in keys if key in file}
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise CaseError(f"{path} cannot be read as an npz file; it is cut short or holds pickled objects.") from error
