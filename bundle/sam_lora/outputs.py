"""Segmented label maps as files: on the image's grid, in a format that fits it, with pictures to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import decollate_batch

from sam_lora.cases import CaseError, write_mask
from sam_lora.datasets import plain
from sam_lora.dicom_seg import write_seg
from sam_lora.files import writable_folder
from sam_lora.reading import PICTURES
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
        overwrite: replace files that are there: nobody knows whether a person drew or corrected them.

    Raises:
        CaseError: in the run, if a file is there and may not be replaced.
    """

    def __init__(
        self, folder: str, dicom_seg: bool = False, overlays: bool = False, axis: int = 2, overwrite: bool = False
    ) -> None:
        self.folder = writable_folder(Path(folder), "output_dir")
        self.dicom_seg, self.overlays, self.axis, self.overwrite = dicom_seg, overlays, axis, overwrite

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _paths(self, image: Any) -> tuple[Path, Path]:
        """Where the mask and the drawing of an image go."""
        source, name = Path(image.meta["filename_or_obj"]), image.meta["name"]
        is_seg = self.dicom_seg and source.is_dir()
        ending = ".dcm" if is_seg else ".png" if source.suffix.lower() in PICTURES else ".nii.gz"
        return self.folder / f"{name}_mask{ending}", self.folder / f"{name}_overlay.png"

    def _check(self, engine: Engine) -> None:
        """Before a case costs time, make sure that its files can be written."""
        for image in decollate_batch(engine.state.batch["image"]):
            for path in self._paths(image)[: 2 if self.overlays else 1]:
                check_output(path, Path(image.meta["filename_or_obj"]), self.overwrite)

    def _write(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image = item["image"]
            path, drawing = self._paths(image)
            label = plain(output["pred"])[0].cpu().numpy()
            source = Path(image.meta["filename_or_obj"])
            write_output(path, label, np.asarray(image.affine), source, names_in(output["pred"]))
            print(path)  # noqa: T201  results go to stdout
            if self.overlays:
                write_overlay(drawing, shown_image(image, self.axis), label)
                print(drawing)  # noqa: T201


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
        if not label.any():
            raise CaseError(f"Nothing was found in {source}, and a DICOM SEG needs an object: {path} is not written.")
        write_seg(path, label, labels or {}, source, affine, by_model=True)
        return
    is_png = path.suffix == ".png"
    base = path.with_name(path.name.removesuffix(".png" if is_png else ".nii.gz"))
    write_mask(base, np.moveaxis(label, (0, 1, 2), (2, 1, 0)), affine, Path("x.png" if is_png else "x.nii"))


def check_output(path: Path, source: Path, overwrite: bool = False, slices: int = 1) -> None:
    """Make sure, before any work, that a mask or a drawing can be written there.

    Args:
        path: see :func:`write_output`.
        source: the image, never overwritten.
        overwrite: another file that is there may be replaced.
        slices: of the image.

    Raises:
        CaseError: if not; the sentence says what can.
    """
    if path.suffix == ".dcm" and not source.is_dir():
        raise CaseError(f"{path} would be a DICOM SEG, which needs a folder with a DICOM series, not {source}.")
    if not path.name.endswith((".nii.gz", ".png", ".dcm")):
        raise CaseError(f"output must end in .nii.gz, .png (a picture) or .dcm (DICOM SEG), got {path}.")
    if path.suffix == ".png" and slices > 1:
        raise CaseError(f"{path} is a picture, and the image has {slices} slices: use .nii.gz.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CaseError(f"{path.parent} must be a folder that can be written to, for {path.name}.")
    if source.is_dir() and path.resolve().parent == source.resolve():
        raise CaseError(f"{path} would lie among the files of the series {source}: write it somewhere else.")
    if path.exists() and source.exists() and path.samefile(source):
        raise CaseError(f"{path} is there already: it is the image itself.")
    if path.exists() and not overwrite:
        raise CaseError(f"{path} is there already: --overwrite replaces it.")


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
