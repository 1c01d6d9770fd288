"""The real images that learning is measured on, and how they are split: by name, once and for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sam_lora.cases import stem

Entry = dict[str, Any]  # of a datalist: image, label, name, patient
HIPPOCAMPUS = {1: "hippocampus anterior", 2: "hippocampus posterior"}
ULTRASOUND = {1: "nerve", 2: "vessel"}


@dataclass(frozen=True)
class Cohort:
    """A data set with its split.

    Args:
        training: entries of a datalist, in order: the first n are "n cases".
        validation: what settings and presets are chosen on.
        test: read once per setting.
        labels: value -> name.
        min_pixels: objects smaller than this, in pixels of the slice, are neither trained on nor measured.
    """

    training: list[Entry]
    validation: list[Entry]
    test: list[Entry]
    labels: dict[int, str]
    min_pixels: int


def hippocampus(data: Path, axis: int = 2) -> Cohort:
    """MR hippocampus, sorted by name: cases 1-50 train, 51-60 validate, 61-80 test.

    Args:
        data: folder of the data sets.
        axis: of the slices; 2 is axial, 1 coronal.

    Raises:
        ValueError: if the folder does not hold the 80 cases.
    """
    folder = data / "mr-hippocampus-msd"
    cases = [{**entry, "axis": axis} for entry in _pairs(folder / "images", folder / "labels", ".nii.gz", 80)]
    return Cohort(cases[:50], cases[50:60], cases[60:80], HIPPOCAMPUS, 10)


def ultrasound(data: Path) -> Cohort:
    """Ultrasound of nerves, sorted by name: the first 48 and the last 12 of its train folder, and its own 40 test images.

    Volunteers may recur: each image counts as a patient of its own, and intervals are over images.

    Raises:
        ValueError: if the folder does not hold the 60 and 40 images.
    """
    folder = data / "us-nerve-usgra"
    known = _pairs(folder / "train" / "images", folder / "train" / "masks", ".png", 60)
    test = _pairs(folder / "test" / "images", folder / "test" / "masks", ".png", 40)
    return Cohort(known[:48], known[48:], test, ULTRASOUND, 50)


COHORTS: dict[str, Callable[[Path], Cohort]] = {
    "hippocampus": hippocampus,
    "hippocampus_coronal": partial(hippocampus, axis=1),
    "ultrasound": ultrasound,
}


def load_cohort(name: str) -> Cohort:
    """A cohort of the table, from the folder $SAM_LORA_DATA.

    Raises:
        ValueError: if the variable is not set, or the images are not there.
    """
    data = os.environ.get("SAM_LORA_DATA")
    if not data:
        raise ValueError(f"SAM_LORA_DATA must name the folder with the {name.split('_')[0]} images; it is not set.")
    return COHORTS[name](Path(data).expanduser().absolute())


def _pairs(images: Path, labels: Path, ending: str, count: int) -> list[Entry]:
    found = sorted(images.glob(f"*{ending}"))
    if len(found) != count:
        raise ValueError(f"SAM_LORA_DATA must hold {count} images {images}/*{ending}, there are {len(found)}.")
    for image in found:
        if not (labels / image.name).is_file():
            raise ValueError(f"SAM_LORA_DATA lacks {labels / image.name}, the label of {image}.")
    return [
        {"image": str(image), "label": str(labels / image.name), "name": stem(image), "patient": stem(image)}
        for image in found
    ]
