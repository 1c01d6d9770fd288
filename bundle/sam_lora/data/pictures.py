"""Pictures with masks into npz cases: grey, colour, palettes, 16 bits, pages; masks as values, colours, or one per object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import PICTURES, CaseError, to_uint8
from sam_lora.data.pairs import Pair, find_files, pair_up
from sam_lora.data.prepared import Origin, Prepared, add_to_datalist, check_section, describe, names_if_done, origin_of
from sam_lora.data.work import run_jobs
from sam_lora.files import writable_folder, write_aside
from sam_lora.reading import refuse_deep_colour, refuse_lossy


@dataclass(frozen=True)
class PictureJob:
    """One picture to prepare.

    Args:
        pair: image, and a mask or one mask per object.
        output: folder of the case's file.
        colours: (red, green, blue) -> value of a colour-coded mask; empty: masks hold values.
        names: value -> name.
        several: masks are one per object, whatever their values; see :func:`prepare_pictures`.
    """

    pair: Pair
    output: Path
    colours: Mapping[tuple[int, int, int], int]
    names: Mapping[int, str]
    several: bool = False

    @property
    def file(self) -> Path:
        """The npz."""
        return self.output / f"{self.pair.name}.npz"


def read_pages(path: Path, is_mask: bool = False) -> list[Image.Image]:
    """All pages of a picture; CaseError if it cannot be read, or not without loss."""
    pages = []
    try:
        with Image.open(path) as image:
            for page in ImageSequence.Iterator(image):
                refuse_deep_colour(page)
                if is_mask:
                    refuse_lossy(page)
                pages.append(page.copy())
        return pages
    except (CaseError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise CaseError(f"{path} has more pixels than a picture may have: {error}") from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise CaseError(f"{path} cannot be read as a picture; it is cut short or of another format.") from error


def grey_or_rgb(pages: Sequence[Image.Image], path: Path) -> np.ndarray:
    """Pages as ``(N, H, W)`` or ``(N, H, W, 3)``, uint8; transparency is dropped.

    More than 8 bits go through percentiles of all pages: one grey means one intensity in the whole stack.

    Args:
        pages: of one picture.
        path: named in errors.

    Raises:
        CaseError: if the pages differ in size, colour or depth.
    """
    arrays = [_grey_or_rgb(page) for page in pages]
    if len({(array.shape, array.dtype == np.uint8) for array in arrays}) > 1:
        raise CaseError(f"The pages of {path} differ in size, colour or depth.")
    stack = np.stack(arrays)
    if stack.dtype == np.uint8:
        return stack
    try:
        return to_uint8(stack, DEFAULT_INTENSITY)
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from error


def _grey_or_rgb(page: Image.Image) -> np.ndarray:
    if page.mode in ("L", "1", "LA", "PA"):
        return np.asarray(page.convert("LA").getchannel("L"))
    if page.mode.startswith(("I", "F")):
        values = np.asarray(page)
        return values.astype(np.int32) if values.dtype == np.uint8 else values
    return np.asarray(page.convert("RGB"))


def mask_values(page: Image.Image, colours: Mapping[tuple[int, int, int], int], path: Path) -> np.ndarray:
    """A mask page as values ``(H, W)``.

    Args:
        page: a grey, palette or 16 bit page holds values; a colour one needs ``colours``.
        colours: (red, green, blue) -> value; black is background.
        path: named in errors.

    Raises:
        CaseError: if the page is in colour and no colours are given, or has a colour that is not in them.
    """
    if colours:
        rgb = np.asarray(page.convert("RGB")).astype(np.int32)
        code = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        table = {0: 0} | {r << 16 | g << 8 | b: value for (r, g, b), value in colours.items()}
        unknown = sorted(set(np.unique(code).tolist()) - table.keys())
        if unknown:
            r, g, b = unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255
            raise CaseError(f"{path} has the colour [{r}, {g}, {b}], which the colour map does not have.")
        result = np.zeros(code.shape, np.int32)
        for key, value in table.items():
            result[code == key] = value
        return result
    if page.mode == "1":
        return np.asarray(page).astype(np.int32)
    if page.mode not in ("L", "P") and not page.mode.startswith("I"):
        raise CaseError(f"{path} is in colour ({page.mode}): give --colors FILE.json, which maps colours to values.")
    return np.asarray(page).astype(np.int32)


def prepare_picture(job: PictureJob) -> Prepared:
    """Write one picture as an npz case, a page per slice; one that is there, made of the same in the same way, stays.

    Raises:
        CaseError: naming the file.
    """
    settings: dict[str, Any] = {
        "colours": sorted([*key, value] for key, value in job.colours.items()),
        "names": dict(job.names),
    }
    settings |= {"several": True} if job.several else {}
    origin = origin_of([job.pair.image, *job.pair.labels], settings)
    if names_if_done(job.file, job.file, origin) is None:
        _prepare(job, origin)
    return Prepared(job.file, job.file, job.pair.name, job.names)


def _prepare(job: PictureJob, origin: Origin) -> None:
    images = grey_or_rgb(read_pages(job.pair.image), job.pair.image)
    masks = [_mask(job, path) for path in job.pair.labels]
    for path, mask in zip(job.pair.labels, masks, strict=True):
        if len(mask) != len(images) or mask.shape[1:] != images.shape[1:3]:
            raise CaseError(
                f"{job.pair.image} has {len(images)} pages of {images.shape[1:3]}, {path} has {mask.shape}."
            )
    label = masks[0]
    if job.several:  # one mask per object: each gets a value of its own, later ones on top
        label = np.zeros_like(masks[0])
        for value, mask in enumerate(masks, 1):
            label[mask > 0] = value
    if not label.any():
        raise CaseError(f"{job.pair.labels[0]} holds no object.")
    with write_aside(job.file) as temporary, temporary.open("wb") as file:
        small = label.astype(np.uint8 if label.max() < 256 else np.int32)
        np.savez_compressed(file, imgs=images, gts=small, **describe(origin, job.names))


def _mask(job: PictureJob, path: Path) -> np.ndarray:
    pages = [mask_values(page, job.colours, path) for page in read_pages(path, is_mask=True)]
    if len({page.shape for page in pages}) > 1:
        raise CaseError(f"The pages of {path} differ in size.")
    return np.stack(pages)


def prepare_pictures(
    images: str,
    masks: str,
    output: Path,
    colours: Mapping[tuple[int, int, int], int],
    names: Mapping[int, str],
    section: str,
    several: bool,
    processes: int,
) -> Path:
    """Prepare all pictures and write ``datalist.json``.

    Args:
        images: folder, pattern or file.
        masks: likewise.
        output: folder for the cases.
        colours: see :func:`mask_values`.
        names: value -> name.
        section: "training", "validation" or "test".
        several: masks are one per object, their names beginning with the image's.
        processes: how many at once.

    Returns:
        The datalist.

    Raises:
        CaseError: if nothing is found or images and masks do not pair.
        ValueError: after all, if some failed; the datalist holds the others.
    """
    check_section(section)
    writable_folder(output, "OUT")
    pairs = pair_up(find_files(images, PICTURES), find_files(masks, PICTURES), several)
    jobs = [PictureJob(pair, output, colours, names, several) for pair in pairs]
    done, failure = run_jobs(jobs, prepare_picture, _name, output, processes)
    path = add_to_datalist(output, section, list(done.values()))
    if failure:
        raise ValueError(failure)
    return path


def _name(job: PictureJob) -> str:
    return job.pair.name
