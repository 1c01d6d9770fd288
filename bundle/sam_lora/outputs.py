"""Segmented label maps as files: on the image's grid, in a format that fits it, with pictures to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from sam_lora.cases import CaseError, write_mask
from sam_lora.datasets import plain
from sam_lora.dicom_seg import write_seg
from sam_lora.files import writable_folder
from sam_lora.shown import ShownImage
from sam_lora.view import save_slices

SHEET = 12  # slices on a contact sheet


class MaskWriter:
    """Evaluator handler that writes each predicted label map as ``<folder>/<name>_mask``.

    PNG for a picture, else NIfTI; DICOM SEG for a DICOM series where that is wanted.

    Args:
        folder: where the masks go.
        dicom_seg: write DICOM SEG for DICOM series.
        overlays: also draw each mask over its image, as ``<name>_overlay.png``.
        axis: the slice axis, for the drawings.
    """

    def __init__(self, folder: str, dicom_seg: bool = False, overlays: bool = False, axis: int = 2) -> None:
        self.folder = writable_folder(Path(folder), "output_dir")
        self.dicom_seg, self.overlays, self.axis = dicom_seg, overlays, axis

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, name = item["image"], item["image"].meta["name"]
            source = Path(image.meta["filename_or_obj"])
            label, affine = plain(output["pred"])[0].cpu().numpy(), np.asarray(image.affine)
            written = self.folder / f"{name}_mask.dcm"
            if self.dicom_seg and source.is_dir():
                write_output(written, label, affine, source, names_in(output["pred"]))
            else:
                mask = np.moveaxis(label, (0, 1, 2), (2, 1, 0))
                written = write_mask(written.with_suffix(""), mask, affine, source)
            print(written)  # noqa: T201  results go to stdout
            if self.overlays:
                path = self.folder / f"{name}_overlay.png"
                write_overlay(path, shown_image(image, self.axis), label)
                print(path)  # noqa: T201


def shown_image(image: Any, axis: int) -> ShownImage:
    """An image from :class:`sam_lora.inferers.LoadCased`, ``(C, I, J, K)``, to look at."""
    array = plain(image).cpu().numpy().astype(np.uint8)
    array = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
    meta = image.meta
    return ShownImage(Path(meta["filename_or_obj"]), array, np.asarray(image.affine), axis, bool(meta["has_place"]))


def names_in(label: Any) -> dict[int, str]:
    """Value -> name of a label map from :class:`sam_lora.inferers.PromptInferer`."""
    stored = label.meta["labels"]
    return {int(v): n for v, n in json.loads(stored[0] if isinstance(stored, list) else stored).items()}


def write_output(
    path: Path, label: np.ndarray, affine: np.ndarray, source: Path, labels: Mapping[int, str] | None = None
) -> None:
    """Write one label map; the ending of the file is the format.

    Args:
        path: .nii.gz, .png for one slice, or .dcm (DICOM SEG) where the image is a DICOM series.
        label: ``(I, J, K)``, integers.
        affine: voxel -> RAS mm of the image.
        source: the image.
        labels: value -> name.

    Raises:
        CaseError: if the mask does not fit the ending, which :func:`check_output` has checked.
    """
    if path.suffix == ".dcm":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_seg(path, label, labels or {}, source, affine, by_model=True)
        return
    is_png = path.suffix == ".png"
    if is_png and label.shape[2] > 1:
        raise CaseError(f"{path} is a picture, and the mask has {label.shape[2]} slices: use .nii.gz.")
    base = path.with_name(path.name.removesuffix(".png" if is_png else ".nii.gz"))
    write_mask(base, np.moveaxis(label, (0, 1, 2), (2, 1, 0)), affine, Path("x.png" if is_png else "x.nii"))


def check_output(path: Path, source: Path, overwrite: bool = False) -> None:
    """Make sure, before any work, that a mask can be written there.

    Args:
        path: see :func:`write_output`.
        source: the image, never overwritten.
        overwrite: another file that is there may be replaced.

    Raises:
        CaseError: if not; the sentence says what can.
    """
    if path.exists() and (not overwrite or (source.exists() and path.samefile(source))):
        way = "it is the image itself" if source.exists() and path.samefile(source) else "--overwrite replaces it"
        raise CaseError(f"{path} is there already: {way}.")
    if path.suffix == ".dcm":
        if not source.is_dir():
            raise CaseError(f"{path} would be a DICOM SEG, which needs a folder with a DICOM series, not {source}.")
    elif not path.name.endswith((".nii.gz", ".png")):
        raise CaseError(f"output must end in .nii.gz, .png (a picture) or .dcm (DICOM SEG), got {path}.")


def write_overlay(path: Path, image: ShownImage, label: np.ndarray) -> None:
    """Draw a label map over its image: up to twelve slices that hold an object, evenly spread, or the middle one.

    Args:
        path: the PNG.
        image: what is under it.
        label: ``(I, J, K)``, integers.
    """
    slices = np.moveaxis(label, image.axis, 2)
    with_object = np.nonzero(slices.any((0, 1)))[0]
    if not len(with_object):
        with_object = np.array([slices.shape[2] // 2])
    chosen = with_object[np.unique(np.linspace(0, len(with_object) - 1, SHEET).round().astype(int))]
    save_slices(path, image, {int(k): (f"slice {k}", slices[:, :, k].T, {}) for k in chosen}, columns=4)
