"""Images and label maps as arrays in voxel order, from any format, whole or refused.

The npz contract: ``imgs`` (N, H, W) or (N, H, W, 3), ``gts`` (N, H, W), optional ``spacing`` (mm, i j k), ``affine``
(4 x 4), ``labels`` (JSON, value -> name) and ``source_digest``. ``imgs[k]`` is the slice shown to the network, rows j
and columns i, as SimpleITK-made files have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pydicom
from monai.config import PathLike
from monai.data import ImageReader, ITKReader, NibabelReader, PILReader
from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class CaseError(ValueError):
    """A case that cannot be used; the sentence names the file and the rule."""


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
        ``(I, J, K)`` or ``(I, J, K, 3)`` and MONAI's metadata, ``has_spacing`` telling whether the file says how large a voxel is.

    Raises:
        CaseError: if it cannot be read, has another number of dimensions, or is no one regular series.
    """
    if not path.exists():
        raise CaseError(f"There is no {path}.")
    if path.is_dir():
        series_files(path)
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
    affine = _four_by_four(meta.get("affine"))
    if isinstance(reader, NibabelReader):
        # MONAI makes the identity of an affine with NaN.
        affine = nibabel.load(path).affine
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3], tol=1e-9) < 3:
        raise CaseError(
            f"{path} does not say where its voxels lie: its affine must be finite and invertible, it is {affine.tolist()}."
        )
    place = {"affine": affine, "has_spacing": path.suffix.lower() not in PICTURES}
    return _as_volume(array, may_be_colour, path), {**place, **meta, "affine": affine}


def series_files(folder: Path) -> list[str]:
    """The files of the one DICOM series in a folder, in ITK's order, which is the order of the volume's slices.

    Raises:
        CaseError: if there are several series, a file that is cut short, or slices that are missing or not equally far
            apart: ITK would make a volume of them all the same.
    """
    names = itk.GDCMSeriesFileNames.New(UseSeriesDetails=True)
    names.AddSeriesRestriction("0008|0021")  # as MONAI's reader has it
    names.SetDirectory(str(folder))
    series = [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    known = {Path(file).name for files in series for file in files}
    for path in sorted(folder.iterdir()):
        if path.name not in known and path.name != "DICOMDIR" and _is_dicom(path):
            raise CaseError(f"{path} cannot be read as a DICOM image: it is cut short, or holds none.")
    if len(series) != 1:
        raise CaseError(f"{folder} holds {len(series)} DICOM series; give a folder with one.")
    tags = ["ImagePositionPatient", "ImageOrientationPatient"]
    headers = [pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True) for file in series[0]]
    if len(headers) > 2 and all(tag in header for header in headers for tag in tags):
        across = np.cross(*np.reshape(np.asarray(headers[0].ImageOrientationPatient, float), (2, 3)))
        gaps = np.diff([np.dot(across, np.asarray(header.ImagePositionPatient, float)) for header in headers])
        if np.abs(gaps - np.median(gaps)).max() >= 0.1 * abs(np.median(gaps)):
            raise CaseError(
                f"The slices of {folder} are {np.abs(gaps).min():.3g} to {np.abs(gaps).max():.3g} mm apart: some are "
                "missing, or it is no one volume."
            )
    return series[0]


def _is_dicom(path: Path) -> bool:
    """Whether a file calls itself DICOM: by its ending, or by its beginning, for exports of archives have no endings."""
    if not path.is_file() or path.suffix.lower() == ".dcm":
        return path.is_file()
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


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
    refuse_deep_colour(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "PA"):
        return image.convert("LA").getchannel("L")
    return image if image.mode in ("L", "RGB") or image.mode.startswith(("I", "F")) else image.convert("RGB")


def _mask_picture(image: Image.Image) -> Image.Image:
    """A mask as its stored values: the indices of a palette are the labels."""
    _refuse_pages(image)
    refuse_lossy(image)
    return image.convert("L").point(lambda v: min(v, 1)) if image.mode == "1" else image


def refuse_deep_colour(image: Image.Image) -> None:
    """CaseError for a picture, not loaded yet, in colour of 16 bits: Pillow keeps the high byte of each channel only."""
    if len(image.getbands()) > 1 and any(";16" in str(tile[3]) for tile in getattr(image, "tile", [])):
        raise CaseError(
            f"{getattr(image, 'filename', 'The picture')} has 16 bits per colour, of which 8 would be lost; save it as grey, "
            "or with 8 bits per colour."
        )


def refuse_lossy(image: Image.Image) -> None:
    """CaseError for a mask whose compression changes values: around each object's edge there would be labels nobody drew."""
    if image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg"):
        raise CaseError(
            f"{getattr(image, 'filename', 'The mask')} is a JPEG: its compression changes labels; save masks as PNG."
        )


def _refuse_pages(image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise CaseError(
            f"{getattr(image, 'filename', 'The picture')} has {image.n_frames} pages; give one page per file."
        )


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of ``keys`` that an npz file has; CaseError if it is no readable npz."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in keys if key in file}
    except MemoryError:
        raise
    except Exception as error:  # zlib's, zipfile's, numpy's: a damaged file can raise nearly anything
        raise CaseError(
            f"{path} cannot be read as an npz file; it is cut short or holds pickled objects, or no arrays by name."
        ) from error
