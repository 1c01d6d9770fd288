"""Pictures with masks into npz cases: grey, colour, palettes, 16 bits, pages; masks as values, colours, or one per object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import PICTURES, CaseError, to_uint8
from sam_lora.data.pairs import Pair, find_files, pair_up
from sam_lora.data.prepared import Origin, Prepared, add_to_datalist, check_section, describe, names_if_done, origin_of
from sam_lora.data.work import run_jobs
from sam_lora.files import writable_folder, write_aside


@dataclass(frozen=True)
class PictureJob:
    """One picture to prepare.

    Args:
        pair: image, and a mask or one mask per object.
        output: folder of the case's file.
        colours: (red, green, blue) -> value of a colour-coded mask; empty: masks hold values.
        names: value -> name.
    """

    pair: Pair
    output: Path
    colours: Mapping[tuple[int, int, int], int]
    names: Mapping[int, str]

    @property
    def file(self) -> Path:
        """The npz."""
        return self.output / f"{self.pair.name}.npz"


def read_pages(path: Path) -> list[Image.Image]:
    """All pages of a picture; CaseError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return [page.copy() for page in ImageSequence.Iterator(image)]
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise CaseError(f"{path} cannot be read as a picture; it is cut short or of another format.") from error


def grey_or_rgb(page: Image.Image) -> np.ndarray:
    """A page as ``(H, W)`` or ``(H, W, 3)``, uint8; more than 8 bits go through percentiles, transparency is dropped."""
    if page.mode in ("L", "1", "LA", "PA"):
        return np.asarray(page.convert("LA").getchannel("L"))
    if page.mode.startswith(("I", "F")):
        return to_uint8(np.asarray(page), DEFAULT_INTENSITY)
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
    settings = {"colours": sorted([*key, value] for key, value in job.colours.items()), "names": dict(job.names)}
    origin = origin_of([job.pair.image, *job.pair.labels], settings)
    if names_if_done(job.file, job.file, origin) is None:
        _prepare(job, origin)
    return Prepared(job.file, job.file, job.pair.name, job.names)


def _prepare(job: PictureJob, origin: Origin) -> None:
    images = [grey_or_rgb(page) for page in read_pages(job.pair.image)]
    masks = [_mask(job, path) for path in job.pair.labels]
    for path, mask in zip(job.pair.labels, masks, strict=True):
        if len(mask) != len(images) or mask.shape[1:] != images[0].shape[:2]:
            raise CaseError(
                f"{job.pair.image} has {len(images)} pages of {images[0].shape[:2]}, {path} has {mask.shape}."
            )
    if any(image.shape != images[0].shape for image in images):
        raise CaseError(f"The pages of {job.pair.image} differ in size or colour.")
    label = masks[0]
    if len(masks) > 1:  # one mask per object: each gets a value of its own, later ones on top
        label = np.zeros_like(masks[0])
        for value, mask in enumerate(masks, 1):
            label[mask > 0] = value
    if not label.any():
        raise CaseError(f"{job.pair.labels[0]} holds no object.")
    with write_aside(job.file) as temporary, temporary.open("wb") as file:
        small = label.astype(np.uint8 if label.max() < 256 else np.int32)
        np.savez_compressed(file, imgs=np.stack(images), gts=small, **describe(origin, job.names))


def _mask(job: PictureJob, path: Path) -> np.ndarray:
    return np.stack([mask_values(page, job.colours, path) for page in read_pages(path)])


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
    jobs = [PictureJob(pair, output, colours, names) for pair in pairs]
    done, failure = run_jobs(jobs, prepare_picture, _name, output, processes)
    path = add_to_datalist(output, section, list(done.values()))
    if failure:
        raise ValueError(failure)
    return path


def _name(job: PictureJob) -> str:
    return job.pair.name
