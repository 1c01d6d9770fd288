"""What the interactive demonstration leaves behind: a label map on the image's grid, and pictures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sam_lora.cases import CaseError, write_mask
from sam_lora.outputs import write_overlay
from sam_lora.predictor import Predictor
from sam_lora.prompts import TOKEN, Point
from sam_lora.requests import read_requests
from sam_lora.segmentation import segment
from sam_lora.shown import ShownImage
from sam_lora.view import save_slices


def answer_requests(
    predictor: Predictor, case: ShownImage, requests: Sequence[Mapping], folder: Path, propagated: bool = False
) -> list[Path]:
    """Segment what is asked, without a window.

    Args:
        predictor: with the case set.
        case: the image.
        requests: see :func:`sam_lora.requests.read_requests`.
        folder: what is written goes there.
        propagated: whole objects instead of their prompted slices.

    Returns:
        The files: ``<name>_mask``, ``<name>_overlay.png`` and ``<name>_slice_<k>.png`` of each prompted slice.

    Raises:
        PromptError: before anything is written.
    """
    volume = predictor.volume
    objects = read_requests(requests, volume.shape, predictor.labels, volume.axis,
                            tokens=predictor.embedder.network.tokens)  # fmt: skip
    with tqdm(desc="segmenting", unit="slice", disable=not propagated) as bar:

        def on_slice(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        label = segment(predictor.embedder, volume, objects, propagated, on_slice=on_slice)
    written = write_answer(folder, case, label)
    drawn = {k for one in objects for k, given in one.points.items() if any(label < TOKEN for *_, label in given)}
    for k in sorted(drawn):
        points: dict[int, list[Point]] = {}
        for one in objects:
            points.setdefault(one.value, []).extend(one.points.get(k, []))
        names = dict.fromkeys(one.name for one in objects if k in one.points)
        written.append(folder / f"{case.name}_slice_{k:03d}.png")
        title = f"slice {k}: {', '.join(names)}"
        save_slices(written[-1], case, {k: (title, volume.slice_of(label, k), points)})
    return written


def check_unwritten(folder: Path, case: ShownImage, overwrite: bool = False) -> None:
    """Make sure, before any work, that nobody's files are replaced unasked; CaseError names the one that would be."""
    for ending in ("mask.nii.gz", "mask.png", "overlay.png", "prompts.json"):
        path = folder / f"{case.name}_{ending}"
        if path.exists() and not overwrite:
            raise CaseError(f"{path} is there already: --overwrite replaces it, --output names another folder.")


def write_answer(folder: Path, case: ShownImage, label: np.ndarray) -> list[Path]:
    """Write a label map ``(I, J, K)`` as ``<name>_mask``, and up to twelve slices of it as ``<name>_overlay.png``.

    Returns:
        The two files.
    """
    mask = write_mask(folder / f"{case.name}_mask", np.moveaxis(label, (0, 1, 2), (2, 1, 0)), case.affine, case.path)
    overlay = folder / f"{case.name}_overlay.png"
    write_overlay(overlay, case, label)
    return [mask, overlay]
