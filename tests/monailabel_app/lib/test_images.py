"""Volumes are read once, and again when their file changes."""

import os
import threading

import numpy as np
import pytest

from monailabel_app.lib.images import Images
from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import write_nifti
from sam_lora.reading import CaseError


def write(path, seed=0):
    return write_nifti(path, np.random.RandomState(seed).rand(6, 5, 4).astype(np.float32), np.eye(4))


def test_an_image_is_read_once_by_all_who_ask(tmp_path):
    path, images, found = write(tmp_path / "a.nii.gz"), Images(), []
    threads = [threading.Thread(target=lambda: found.append(images.get(path, DEFAULT_INTENSITY))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is found[0] for one in found)
    assert found[0].volume(2) is found[0].volume(2)
    assert images.get(path, {"window": [0.5, 1.0]}) is not found[0]
    images.get(path, DEFAULT_INTENSITY)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(CaseError):
        images.get(tmp_path / "b.nii.gz", DEFAULT_INTENSITY)
    assert not images._reading  # nothing of a request is left


def test_a_changed_file_is_read_anew(tmp_path):
    path, images = write(tmp_path / "a.nii.gz"), Images()
    before = images.get(path, DEFAULT_INTENSITY)
    write(path, seed=1)
    os.utime(path, (1, 1))
    assert (images.get(path, DEFAULT_INTENSITY).array != before.array).any()


def test_the_least_recently_used_is_forgotten(tmp_path):
    paths, images = [write(tmp_path / f"{n}.nii.gz", n) for n in range(3)], Images(max_bytes=240)
    first = images.get(paths[0], DEFAULT_INTENSITY)
    images.get(paths[1], DEFAULT_INTENSITY)
    assert images.get(paths[0], DEFAULT_INTENSITY) is first
    second = images.get(paths[1], DEFAULT_INTENSITY)
    images.get(paths[2], DEFAULT_INTENSITY)
    assert images.get(paths[1], DEFAULT_INTENSITY) is second
    assert images.get(paths[0], DEFAULT_INTENSITY) is not first


def test_an_image_that_is_gone_is_said_so(tmp_path):
    with pytest.raises(CaseError, match=r"The image gone\.nii\.gz is not there any more"):
        Images().get(tmp_path / "gone.nii.gz", DEFAULT_INTENSITY)


def test_what_is_forgotten_is_not_held_whatever_its_intensity(tmp_path):
    images = Images()
    for name in ("a", "b"):
        for intensity in (DEFAULT_INTENSITY, {"window": [0.5, 1.0]}):
            images.get(write(tmp_path / f"{name}.nii.gz"), intensity)
    images.forget(tmp_path / "a.nii.gz")
    images.forget(tmp_path / "unknown.nii.gz")
    assert [key[0][0] for key in images._held] == [str(tmp_path / "b.nii.gz")] * 2
