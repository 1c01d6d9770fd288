"""A folder of three images, and labels to save in it."""

import nibabel
import numpy as np
import pytest

from monailabel_app.lib.datastores.local import StudiesFolder
from sam_lora.cases import write_nifti

SHAPE = (6, 5, 4)


def label_of(value):
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 1:3, 1] = value
    return label


@pytest.fixture
def folder(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    for name in ("a", "b", "c"):
        write_nifti(studies / f"{name}.nii.gz", np.arange(120, dtype=np.float32).reshape(SHAPE), np.diag([1, 1, 2, 1]))
    return studies


@pytest.fixture
def store(folder):
    return StudiesFolder(str(folder))


def drawn(tmp_path, value=1, ending=".nii.gz", affine=None):
    path = write_nifti(tmp_path / "drawn.nii.gz", label_of(value), np.diag([1, 1, 2, 1]) if affine is None else affine)
    return (
        path if ending == ".nii.gz" else nibabel.save(nibabel.load(path), path := tmp_path / f"drawn{ending}") or path
    )


def stored(store, image, tag="final"):
    return int(np.asanyarray(nibabel.load(store.get_label_uri(image, tag)).dataobj).max())
