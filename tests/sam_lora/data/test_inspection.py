"""An inspection finds what was planted, and nothing else."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from sam_lora.data.inspection import across_cases, inspect_case
from sam_lora.data.inspection_page import write_inspection
from sam_lora.datalist import list_cases
from tests.conftest import phantom

AFFINE = np.diag([-1.0, 1.0, 1.5, 1.0])


def write_case(folder, name, seed=0, affine=AFFINE):
    image, label = phantom(seed=seed)
    for kind, array in (("images", image.astype(np.int16)), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), affine), folder / kind / f"{name}.nii.gz"
        )


def change(folder, name, kind, do):
    path = folder / kind / f"{name}.nii.gz"
    image = nibabel.load(path)
    array, affine = do(np.asanyarray(image.dataobj).copy(), image.affine.copy())
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def put(value, place):
    def do(array, affine):
        array = array.astype(np.float32 if value != value or isinstance(value, float) else array.dtype)
        array[place] = value
        return array, affine

    return do


FAULTS = {
    "shape": (lambda f: change(f, "c0", "labels", lambda a, m: (a[:-1], m)), "they must be equal"),
    "origin": (lambda f: change(f, "c1", "labels", lambda a, m: (a, m + np.eye(4)[:, 3:] @ np.eye(4)[3:] + _shift(5))), "different geometry"),
    "flip": (lambda f: change(f, "c2", "labels", lambda a, m: (a, m @ np.diag([-1, 1, 1, 1]))), "flipped left-right"),
    "nan": (lambda f: change(f, "c3", "images", put(np.nan, (0, 0, 0))), "1 pixels are NaN or infinite"),
    "empty": (lambda f: change(f, "c4", "labels", lambda a, m: (a * 0, m)), "the mask is empty"),
    "value": (lambda f: change(f, "c5", "labels", put(9, np.s_[0:5, 0:5, 0])), "value 9 has no name in the datalist"),
    "tiny": (lambda f: change(f, "c6", "labels", lambda a, m: (np.where(a == 2, 0, a), m)) or change(f, "c6", "labels", put(2, (0, 0, 0))),
             "block has only 1 voxels"),
    "constant": (lambda f: change(f, "c7", "images", lambda a, m: (a * 0 + 5, m)), "one value everywhere"),
    "duplicate": (lambda f: shutil.copy(f / "images" / "c8.nii.gz", f / "images" / "c9.nii.gz"), "c8 and c9 are the same image, in two sections"),
    "patient": (None, "patient same is in training and in test"),
    "missing": (lambda f: (f / "labels" / "c10.nii.gz").unlink(), "There is no .*c10.nii.gz"),
    "broken": (lambda f: (f / "images" / "c11.nii.gz").write_bytes(b"x"), "cannot be read as an image"),
}  # fmt: skip


def _shift(mm):
    result = np.zeros((4, 4))
    result[0, 3], result[3, 3] = mm, -1
    return result


@pytest.fixture
def folder(tmp_path):
    entries = {"training": [], "test": []}
    for n in range(14):
        write_case(tmp_path, f"c{n}", seed=n)
        patient = {"patient": "same"} if n in (12, 13) else {}
        section = "test" if n in (9, 13) else "training"
        entries[section].append({"image": f"images/c{n}.nii.gz", "label": f"labels/c{n}.nii.gz", **patient})
    (tmp_path / "datalist.json").write_text(json.dumps({**entries, "labels": {"1": "bar", "2": "block"}}))
    return tmp_path


def problems(folder):
    cases = list_cases(str(folder), str(folder / "datalist.json"))
    reports = [inspect_case(e, s, cases["labels"]) for s in ("training", "test") for e in cases[s]]
    between = list(across_cases(cases))
    return reports, between, [f"{r.name}: {p}" for r in reports for p in r.problems] + between


def test_every_planted_fault_is_found_and_nothing_else(folder):
    assert problems(folder)[2] == ["patient same is in training and in test"]
    for plant, _ in FAULTS.values():
        if plant is not None:
            plant(folder)
    reports, between, found = problems(folder)
    import re

    for name, (_, sentence) in FAULTS.items():
        assert any(re.search(sentence, problem) for problem in found), (name, found)
    assert len(found) == len(FAULTS), found
    write_inspection(folder / "report.html", reports, between, {1: "bar", 2: "block"})
    page = (folder / "report.html").read_text()
    assert f"14 cases, {len(FAULTS)} problems" in page
    assert page.count("<div><img alt='c") >= 10


def test_volumes_are_in_millilitres(folder):
    (report, *_), _, _ = problems(folder)
    assert report.volumes[1] == pytest.approx(7 * 12 * 4 * 1.5 / 1000)
    assert report.spacing == (1.0, 1.0, 1.5)
