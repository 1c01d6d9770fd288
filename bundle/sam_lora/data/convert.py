"""One file into another format, geometry and values untouched."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import itk
import numpy as np
from PIL import Image

from sam_lora.cases import CaseError
from sam_lora.data.pairs import holds_dicom
from sam_lora.data.pictures import read_pages
from sam_lora.files import clear_leftovers, write_aside
from sam_lora.reading import series_files


def convert(source: Path, target: Path, overwrite: bool = False) -> list[Path]:
    """Convert a file, or a folder with one DICOM series.

    dcm, mhd, mha, nrrd, nii -> nii or nii.gz (also among each other); jpg, tif, bmp -> png, a page per file; json with
    run lengths -> png.

    Args:
        source: what is read.
        target: what is written; its ending is the format.
        overwrite: replace a file that is there.

    Returns:
        The files written.

    Raises:
        CaseError: if the source cannot be read, the target is there, or there is no way between the formats.
    """
    if not source.exists():
        raise CaseError(f"There is no {source}.")
    way = _way(source, target)
    if target.exists() and not overwrite:
        raise CaseError(f"{target} is there already; --overwrite replaces it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent, target.name)
    return way(source, target, overwrite)


def _way(source: Path, target: Path) -> Callable[[Path, Path, bool], list[Path]]:
    volumes = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
    to_volume = target.name.lower().endswith(volumes[:4])
    if source.name.lower().endswith(".nii") and target.name.lower().endswith(".nii.gz"):
        return _compress
    if to_volume and ((source.is_dir() and holds_dicom(source)) or source.name.lower().endswith((*volumes, ".dcm"))):
        return _volume
    if target.suffix.lower() == ".png":
        if source.suffix.lower() in (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".png"):
            return _picture
        if source.suffix.lower() == ".json":
            return _run_lengths
    raise CaseError(f"There is no way from {source.name} to {target.name}: volumes become .nii(.gz), pictures .png.")


def _compress(source: Path, target: Path, _: bool) -> list[Path]:
    with write_aside(target) as temporary:
        temporary.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    return [target]


def _volume(source: Path, target: Path, _: bool) -> list[Path]:
    try:
        image = itk.imread(series_files(source) if source.is_dir() else str(source))
    except (RuntimeError, OSError, KeyError) as error:
        raise CaseError(f"{source} cannot be read as an image: {str(error).strip().splitlines()[-1]}") from error
    # ITK chooses the format by the ending, so the temporary file keeps it.
    temporary = target.with_name(f".part.{target.name}")
    try:
        itk.imwrite(image, str(temporary), compression=target.name.lower().endswith(".gz"))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return [target]


def _picture(source: Path, target: Path, overwrite: bool) -> list[Path]:
    pages = read_pages(source)
    targets = [target] if len(pages) == 1 else [target.with_stem(f"{target.stem}_{n:03d}") for n in range(len(pages))]
    for page, path in zip(pages, targets, strict=True):
        if path.exists() and not overwrite:
            raise CaseError(f"{path} is there already; --overwrite replaces it.")
        with write_aside(path) as temporary:
            (page.convert("RGB") if page.mode == "CMYK" else page).save(temporary, "PNG")
    return targets


def _run_lengths(source: Path, target: Path, _: bool) -> list[Path]:
    with write_aside(target) as temporary:
        Image.fromarray(decode_run_lengths(source).astype(np.uint8)).save(temporary, "PNG")
    return [target]


def decode_run_lengths(path: Path) -> np.ndarray:
    """A binary mask ``(H, W)`` from COCO's uncompressed run lengths: ``{"size": [H, W], "counts": [zeros, ones, ...]}``.

    Counts run down the columns and begin with zeros.

    Raises:
        CaseError: if the file is no such JSON or the counts do not fill the size.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        height, width = (int(v) for v in content["size"])
        counts = [int(v) for v in content["counts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(f'{path} must be {{"size": [H, W], "counts": [zeros, ones, ...]}}.') from error
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise CaseError(f"The counts of {path} add up to {sum(counts)}, its size is {height} x {width}.")
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(width, height).T
