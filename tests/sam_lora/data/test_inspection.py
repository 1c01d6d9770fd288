"""An inspection finds what was planted, and nothing else."""

import gzip
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from sam_lora.data.inspection import CaseReport, inspect_case, inspect_datalist
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


def copy_voxels(source, target):
    """The same image in a file of other bytes."""
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1, mtime=7))


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
    "nan": (lambda f: change(f, "c3", "images", put(np.nan, (0, 0, 0))), "1 of .* voxels are NaN or infinite"),
    "empty": (lambda f: change(f, "c4", "labels", lambda a, m: (a * 0, m)), "the mask is empty"),
    "value": (lambda f: change(f, "c5", "labels", put(9, np.s_[0:5, 0:5, 0])), "value 9 has no name in the datalist"),
    "tiny": (lambda f: change(f, "c6", "labels", lambda a, m: (np.where(a == 2, 0, a), m)) or change(f, "c6", "labels", put(2, (0, 0, 0))),
             "block has only 1 voxel$"),
    "constant": (lambda f: change(f, "c7", "images", lambda a, m: (a * 0 + 5, m)), "one value everywhere"),
    "duplicate": (lambda f: copy_voxels(f / "images" / "c8.nii.gz", f / "images" / "c9.nii.gz"), "c8 and c9 are the same image, in two sections"),
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
    reports, between = inspect_datalist(cases, {"percentiles": [0.5, 99.5]}, 1)
    return reports, between, [f"{r.name}: {p}" for r in reports for p in r.problems] + between


def test_every_planted_fault_is_found_and_nothing_else(folder):
    assert problems(folder)[2] == ["patient same is in training and in test"]
    for plant, _ in FAULTS.values():
        if plant is not None:
            plant(folder)
    reports, between, found = problems(folder)
    for name, (_, sentence) in FAULTS.items():
        assert any(re.search(sentence, problem) for problem in found), (name, found)
    assert len(found) == len(FAULTS), found
    write_inspection(folder / "report.html", "mine", reports, between, {1: "bar", 2: "block"})
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "mine: 14 cases" in page
    assert f"{len(FAULTS)} problems" in page
    assert page.count("<figure class='bad'>") == sum(bool(r.problems) and r.picture is not None for r in reports) >= 7


def test_volumes_are_in_millilitres(folder):
    (report, *_), _, _ = problems(folder)
    assert report.volumes[1] == pytest.approx(7 * 12 * 4 * 1.5 / 1000)
    assert report.spacing == (1.0, 1.0, 1.5)
    assert report.unit == "ml"


def test_histograms_are_held_against_the_window(tmp_path):
    write_case(tmp_path, "a")
    entry = {
        "image": str(tmp_path / "images" / "a.nii.gz"),
        "label": str(tmp_path / "labels" / "a.nii.gz"),
        "name": "a",
        "patient": "a",
    }
    report = inspect_case(entry, "training", {}, {"window": [60, 40]})
    raw = np.asanyarray(nibabel.load(entry["image"]).dataobj)
    assert report.window == (40, 80)
    assert report.clipped == pytest.approx(((raw < 40).mean(), (raw > 80).mean()))
    assert report.histogram.sum() == pytest.approx(1)
    assert inspect_case(entry, "training", {}, {"window": [5000, 40]}).problems == [
        "all of the image is outside the window: it would be one grey"
    ]


def test_pictures_are_measured_in_pixels(tmp_path):
    image, label = phantom()
    for name, array in (("a", image[0]), ("m", label[0])):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    report = inspect_case(
        {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.png"), "name": "a", "patient": "a"}, "test", {}
    )
    assert (report.unit, report.volumes, report.window, report.problems) == ("pixels", {1: 84}, (0, 255), [])


def test_a_page_without_a_case_that_could_be_read(tmp_path):
    report = CaseReport("<a>", "test", "p", problems=["broken & lost"])
    write_inspection(tmp_path / "r.html", "list", [report], ["both"], {})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert "broken &amp; lost" in page
    assert "2 problems" in page


def test_ten_faults_in_a_copy_of_real_data_are_found(data_dir, tmp_path, data):
    source = data_dir / "mr-hippocampus-msd"
    names = sorted(p.name.removesuffix(".nii.gz") for p in (source / "images").glob("*.nii.gz"))[:14]
    entries = {"training": [], "test": []}
    for number, name in enumerate(names):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(source / kind / f"{name}.nii.gz", tmp_path / kind)
        entry = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
        entries["test" if number in (9, 13) else "training"].append(entry)
    labels = {"1": "anterior", "2": "posterior"}
    (tmp_path / "datalist.json").write_text(json.dumps({**entries, "labels": labels}))
    assert data("inspect", "datalist.json")[:2] == (0, "14 cases, no problem found\n")
    n = names
    plants = {
        f"{n[0]}: .* they must be equal": lambda: change(tmp_path, n[0], "labels", lambda a, m: (a[:-1], m)),
        f"{n[1]}: image and mask have different geometry": lambda: change(tmp_path, n[1], "labels", lambda a, m: (a, m + _shift(5))),
        f"{n[2]}: image and mask have different geometry: the mask is flipped left-right": lambda: change(tmp_path, n[2], "labels", lambda a, m: (a, m @ np.diag([-1, 1, 1, 1]))),
        f"{n[3]}: 1 of .* voxels are NaN or infinite": lambda: change(tmp_path, n[3], "images", put(np.nan, (0, 0, 0))),
        f"{n[4]}: the mask is empty": lambda: change(tmp_path, n[4], "labels", lambda a, m: (a * 0, m)),
        f"{n[5]}: value 9 has no name": lambda: change(tmp_path, n[5], "labels", put(9, np.s_[0:5, 0:5, 0])),
        f"{n[6]}: posterior has only 1 voxel$": lambda: change(tmp_path, n[6], "labels", lambda a, m: (only_one_of(2, a), m)),
        f"{n[7]}: the image has one value everywhere": lambda: change(tmp_path, n[7], "images", lambda a, m: (a * 0 + 5, m)),
        f"{n[8]} and {n[9]} are the same image, in two sections": lambda: [copy_voxels(tmp_path / k / f"{n[8]}.nii.gz", tmp_path / k / f"{n[9]}.nii.gz") for k in ("images", "labels")],
        f"{n[10]}: There is no .*": lambda: (tmp_path / "labels" / f"{n[10]}.nii.gz").unlink(),
        f"{n[11]}: .* cannot be read as an image": lambda: (tmp_path / "images" / f"{n[11]}.nii.gz").write_bytes(b"x"),
        "patient same is in training and in test": lambda: [e.update(patient="same") for e in (entries["training"][-1], entries["test"][-1])],
    }  # fmt: skip
    for plant in plants.values():
        plant()
    (tmp_path / "datalist.json").write_text(json.dumps({**entries, "labels": labels}))
    code, out, _ = data("inspect", "datalist.json", "--report", "r.html")
    found = out.splitlines()[1:]
    assert code == 1
    for sentence in plants:
        assert [re.match(sentence, line) is not None for line in found].count(True) == 1, (sentence, found)
    assert len(found) == len(plants), found


def only_one_of(value, array):
    first = tuple(np.argwhere(array == value)[0])
    array[array == value] = 0
    array[first] = value
    return array
